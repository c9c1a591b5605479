package rules

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// String returns the pattern as written in a Caddyfile: "GET,POST /v1/deploy*".
func (p Pattern) String() string {
	if len(p.Methods) == 0 {
		return p.Path
	}
	return strings.Join(p.Methods, ",") + " " + p.Path
}

// ParsePattern parses the pattern at the start of a Caddyfile line: an optional method or
// comma-separated list of methods ("*" for any), then a path. It returns the rest of the line. New
// checks the path itself.
func ParsePattern(args []string) (p Pattern, rest []string, err error) {
	if len(args) == 0 {
		return p, nil, errors.New("a path is missing")
	}
	methods := ""
	switch {
	case args[0] == "*" && len(args) > 1 && isPath(args[1]):
		args = args[1:]
	case !isPath(args[0]):
		methods, args = args[0], args[1:]
	}
	if methods != "" {
		p.Methods = strings.Split(methods, ",")
		for _, m := range p.Methods {
			if err := checkMethod(m); err != nil {
				return Pattern{}, nil, err
			}
		}
	}
	if len(args) == 0 || !isPath(args[0]) {
		return Pattern{}, nil, fmt.Errorf("a path beginning with / or * must follow %s", methods)
	}
	p.Path = args[0]
	return p, args[1:], nil
}

// ParsePatterns parses a line of one or more paths ("protect /a /b"). Methods at its start apply
// to all paths.
func ParsePatterns(args []string) ([]Pattern, error) {
	first, rest, err := ParsePattern(args)
	if err != nil {
		return nil, err
	}
	out := []Pattern{first}
	for _, path := range rest {
		if !isPath(path) {
			return nil, fmt.Errorf("%q is not a path: it must begin with / or *", path)
		}
		out = append(out, Pattern{Methods: first.Methods, Path: path})
	}
	return out, nil
}

func isPath(arg string) bool {
	return strings.HasPrefix(arg, "/") || strings.HasPrefix(arg, "*")
}

// checkMethod returns an error unless m has the form of the methods registered with IANA:
// upper-case letters, and "-" between them.
func checkMethod(m string) error {
	ok := m != "" && m[0] != '-' && m[len(m)-1] != '-'
	for i := range len(m) {
		ok = ok && (m[i] >= 'A' && m[i] <= 'Z' || m[i] == '-')
	}
	if !ok {
		return fmt.Errorf("%q is not a method: write it in capital letters, several joined by commas, such as GET,POST", m)
	}
	return nil
}

// line is a compiled Pattern.
type line struct {
	methods []string
	// written matches paths with regard to case; folded matches case-folded paths.
	written, folded pattern
	// below is the pattern "/docs" of a line "/docs/*". It is nil for other lines.
	below *pattern
	// wild reports whether the pattern has a wildcard.
	wild bool
}

// compile checks p and compiles it.
func compile(p Pattern) (line, error) {
	for i, m := range p.Methods {
		if err := checkMethod(m); err != nil {
			return line{}, err
		}
		if slices.Contains(p.Methods[:i], m) {
			return line{}, fmt.Errorf("method %s stands twice", m)
		}
	}
	written, err := newPattern(p.Path, false)
	if err != nil {
		return line{}, err
	}
	folded, err := newPattern(p.Path, true)
	if err != nil {
		return line{}, err
	}
	l := line{methods: slices.Clone(p.Methods), written: written, folded: folded, wild: written.kind != exact}
	if strings.HasSuffix(p.Path, "/*") {
		if below, ok := written.slashAdded(); ok {
			l.below = &below
		}
	}
	return l, nil
}

// caseless reports whether the pattern as written and the case-folded pattern match the same lower-case paths.
func (l *line) caseless(p Pattern) bool { return fold(p.Path) == p.Path }

// matches reports whether l matches a path as `public` and `optional` lines do: with regard to
// case, and "/docs/*" matches "/docs" too.
func (l *line) matches(method, path string) bool {
	return l.matchesMethod(method, false) && l.matchesPath(path)
}

// matchesPath is matches for any method.
func (l *line) matchesPath(path string) bool {
	return l.written.match(path, false) || l.below != nil && l.below.match(path, false)
}

// matchesName reports whether l matches a name. slash adds a slash to the name. folded ignores
// case; the name must then be case-folded or ASCII.
func (l *line) matchesName(method, name string, slash, folded bool) bool {
	if !l.matchesMethod(method, folded) {
		return false
	}
	p := &l.written
	if folded {
		p = &l.folded
	}
	if slash {
		return p.matchSlashed(name, folded)
	}
	return p.match(name, folded)
}

// matchesMethod reports whether l applies to method. GET includes HEAD.
func (l *line) matchesMethod(method string, folded bool) bool {
	if len(l.methods) == 0 {
		return true
	}
	for _, m := range l.methods {
		if m == method || folded && strings.EqualFold(m, method) {
			return true
		}
		if m == "GET" && (method == "HEAD" || folded && strings.EqualFold(method, "HEAD")) {
			return true
		}
	}
	return false
}
