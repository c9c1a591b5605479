package rules

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// PathsConfig is a `paths` block: the exceptions for paths that are forwarded as sent. Patterns
// are those of Pattern, without methods.
type PathsConfig struct {
	// EncodedSlash are the patterns under which a path may hold "%2F".
	EncodedSlash []string `json:"encoded_slash,omitempty"`
	// Parameters are the patterns under which a path may hold ";".
	Parameters []string `json:"parameters,omitempty"`
	// AsSent are the patterns under which every path is forwarded as sent.
	AsSent []string `json:"as_sent,omitempty"`
	// Report forwards every path as sent. A path that would be rejected or changed is only logged
	// and counted. Default: false.
	Report bool `json:"report,omitempty"`
}

// Paths is a compiled PathsConfig. Immutable, safe for concurrent use.
type Paths struct {
	encodedSlash, parameters, asSent []line
	report                           bool
}

// NewPaths compiles c. Errors quote the line.
func NewPaths(c PathsConfig) (*Paths, error) {
	p := &Paths{report: c.Report}
	for _, kind := range []struct {
		name     string
		patterns []string
		lines    *[]line
	}{
		{"allow encoded_slash", c.EncodedSlash, &p.encodedSlash},
		{"allow parameters", c.Parameters, &p.parameters},
		{"as_sent", c.AsSent, &p.asSent},
	} {
		for i, text := range kind.patterns {
			if slices.Contains(kind.patterns[:i], text) {
				return nil, fmt.Errorf("%s %s: the same line stands twice", kind.name, text)
			}
			l, err := compile(Pattern{Path: text})
			if err != nil {
				return nil, fmt.Errorf("%s %s: %w", kind.name, text, err)
			}
			*kind.lines = append(*kind.lines, l)
		}
	}
	return p, nil
}

// Path is a request's path in the form for Evaluate.
type Path struct {
	// Escaped is the path for the upstream, and Decoded is Escaped decoded once. Both are empty if
	// Rejected is true.
	Escaped, Decoded string
	// Fault is why the path is ambiguous; 0 if it is not.
	Fault Fault
	// Changed reports whether the canonical form differs from the sent path.
	Changed bool
	// AsSent reports whether the path is forwarded as sent, although it is ambiguous or not
	// canonical.
	AsSent bool
	// Reported reports whether AsSent is true only because of PathsConfig.Report.
	Reported bool

	// match is the path in matching form: Escaped with all escapes decoded but "%25". alternatives
	// are further paths in this form, see the function alternatives.
	match        string
	alternatives []string
	// interpretations are set in place of match if the path is forwarded as sent.
	interpretations []string
	// strictest reports whether the path has too many interpretations, so that the strictest
	// verdict applies.
	strictest bool
}

// Rejected reports whether the request must be rejected with 400 ambiguous_path.
func (p *Path) Rejected() bool { return p.Fault != 0 && !p.AsSent }

// rawPath returns the path of u as sent, with its escapes, even if Go would write them
// differently.
func rawPath(u *url.URL) string {
	if u.RawPath != "" {
		if d, err := url.PathUnescape(u.RawPath); err == nil && d == u.Path {
			return u.RawPath
		}
	}
	return u.EscapedPath()
}

// escapedByGo are the characters that Go writes as escapes in a URL without a RawPath.
const escapedByGo = "!'()*[]"

// Canonicalize returns the path of u in the form that is checked and forwarded. The path of
// "OPTIONS *" is "*". With exempt, an exception applies to every path. Canonicalize does not
// allocate for a canonical path without escapes.
func (p *Paths) Canonicalize(u *url.URL, exempt bool) Path {
	if u.Opaque != "" {
		return Path{Fault: NotOrigin, AsSent: p.report || exempt, Reported: p.report, strictest: true}
	}
	if u.RawPath == "" && isCanonical(u.Path) && !strings.ContainsAny(u.Path, escapedByGo) {
		return Path{Escaped: u.Path, Decoded: u.Path, match: u.Path}
	}
	if u.Path == "*" && u.RawPath == "" {
		return Path{Escaped: "*", Decoded: "*", match: "*"}
	}
	sent := rawPath(u)
	if sent == "" && u.Host != "" {
		sent = "/" // RFC 9112, section 3.2.2: an absolute-form target without a path means "/".
	}
	canonical, fault := Canonical(sent)
	if fault != 0 || canonical != sent {
		if out, ok := p.exception(sent, fault, exempt, u.EscapedPath() == sent); ok {
			return out
		}
		if fault != 0 {
			return Path{Fault: fault}
		}
	}
	out := Path{Escaped: canonical, Decoded: canonical, match: canonical, Changed: canonical != sent}
	if strings.IndexByte(canonical, '%') >= 0 {
		out.Decoded = decode(canonical, func(byte) bool { return true })
		out.match = decode(canonical, func(b byte) bool { return b != '%' })
		again := ""
		if strings.Contains(canonical, "%25") {
			again, _ = decodeAgain(canonical)
		}
		if again != "" || mayHaveAlternatives(out.match) {
			out.alternatives = alternatives(out.match, again)
		}
	}
	return out
}

// exception returns the path as sent if an exception applies: every interpretation of the path
// must match the exception's patterns. faithful reports whether Go forwards the path with the
// escapes that were sent.
func (p *Paths) exception(sent string, fault Fault, exempt, faithful bool) (Path, bool) {
	out := Path{Fault: fault, AsSent: true, Changed: fault == 0, Escaped: sent}
	var ok bool
	switch {
	case p.report || exempt:
		out.Reported = p.report
		out.interpretations, ok = interpretations(sent, nil)
		out.strictest = !ok || !faithful
		return out, true
	case !faithful:
		return out, false
	case len(p.asSent) > 0:
		if out.interpretations, ok = interpretations(sent, matchesAny(p.asSent)); ok {
			return out, true
		}
	}
	var lists [][]line
	if fault&EncodedSlash != 0 {
		lists = append(lists, p.encodedSlash)
	}
	if fault&Parameter != 0 {
		lists = append(lists, p.parameters)
	}
	if fault&^(EncodedSlash|Parameter) != 0 || len(lists) == 0 {
		return out, false
	}
	for _, lines := range lists {
		if len(lines) == 0 {
			return out, false
		}
	}
	out.interpretations, ok = interpretations(sent, func(path string) bool {
		for _, lines := range lists {
			if !matchesAny(lines)(path) {
				return false
			}
		}
		return true
	})
	return out, ok
}

// matchesAny returns a function that reports whether a path matches one of lines.
func matchesAny(lines []line) func(string) bool {
	return func(path string) bool {
		for i := range lines {
			if lines[i].matchesPath(path) {
				return true
			}
		}
		return false
	}
}

// Remedy returns the line of a `paths` block that would allow a path with this fault.
func (f Fault) Remedy(path string) string {
	option := "as_sent"
	switch {
	case f == EncodedSlash:
		option = "allow encoded_slash"
	case f == Parameter:
		option = "allow parameters"
	}
	// path[:i] is the part before the first ambiguous byte.
	i := 0
	for i < len(path) && pathByte[path[i]] == plainClass || i < len(path) && path[i] == '/' {
		i++
	}
	prefix := path[:strings.LastIndexByte(path[:i], '/')+1]
	if canonical, fault := Canonical(prefix); fault != 0 || canonical != prefix {
		prefix = "/"
	}
	return option + " " + prefix + "*"
}

// errEmptySegment is the error for a pattern that no canonical path can match.
var errEmptySegment = errors.New("a path has no empty segment: repeated slashes are merged before the rules apply, so write one")
