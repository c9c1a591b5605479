package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	"github.com/keygate-dev/keygate/plugin/rules"
)

// parsePaths reads a `paths` block. The dispenser's current token is its name.
func parsePaths(d *caddyfile.Dispenser, l lines, c *rules.PathsConfig) error {
	if _, err := args(d, 0, 0, "paths { … }"); err != nil {
		return err
	}
	l.note("paths", d)
	return block(d, "paths", pathsOptions(l, c))
}

// pathsOptions returns the options of a `paths` block. Their parse functions write to c.
func pathsOptions(l lines, c *rules.PathsConfig) options {
	take := func(field string, at *caddyfile.Dispenser, to *[]string, patterns []string) {
		for _, p := range patterns {
			l.note(fmt.Sprintf("paths.%s[%d]", field, len(*to)), at)
			*to = append(*to, p)
		}
	}
	return options{
		"allow": {repeatable: true, parse: func(d *caddyfile.Dispenser) error {
			at := *d
			a, err := args(d, 2, -1, "allow encoded_slash|parameters <path>...")
			if err != nil {
				return err
			}
			switch a[0] {
			case "encoded_slash":
				take("encoded_slash", &at, &c.EncodedSlash, a[1:])
			case "parameters":
				take("parameters", &at, &c.Parameters, a[1:])
			default:
				return at.Errf("allow takes 'encoded_slash' or 'parameters', not '%s'; for paths that are ambiguous in other ways use 'as_sent <path>...'", a[0])
			}
			return nil
		}},
		"as_sent": {repeatable: true, parse: func(d *caddyfile.Dispenser) error {
			at := *d
			a, err := args(d, 1, -1, "as_sent <path>...")
			take("as_sent", &at, &c.AsSent, a)
			return err
		}},
		"report": {parse: func(d *caddyfile.Dispenser) error { return bare(d, &c.Report) }},
	}
}

// errPathMatcher is the error for a matcher that looks at the path and can't become rules.
var errPathMatcher = errors.New("this matcher looks at the path as Caddy reads it, which may differ from how the upstream reads it: " +
	"remove the matcher and name the paths that need a key inside the block, such as 'protect /api/*' (a matcher may hold only path, not path and method)")

// splitMatcher converts a matcher that consists only of the matchers `path`, `not path` and `method` into the
// directive's patterns: only for included paths, except for excluded ones. A matcher that does not look at the path is
// returned as rest. Any other matcher is an error: Caddy and the upstream may read the same path differently, so a
// request could escape the check.
func splitMatcher(set caddy.ModuleMap) (only, except []rules.Pattern, rest caddy.ModuleMap, err error) {
	if len(set) == 0 {
		return nil, nil, nil, nil
	}
	inside, err := patternsOf(set)
	if err != nil {
		return nil, nil, nil, err
	}
	var outside []rules.Pattern
	aboutPath, others := len(inside) > 0, false
	for _, name := range slices.Sorted(maps.Keys(set)) {
		raw := set[name]
		switch name {
		case "path", "method":
		case "not":
			var sets []caddy.ModuleMap
			if err := json.Unmarshal(raw, &sets); err != nil {
				return nil, nil, nil, err
			}
			for _, negated := range sets {
				patterns, err := patternsOf(negated)
				switch {
				case err != nil:
					return nil, nil, nil, err
				case len(patterns) > 0 && onlyKeys(negated, "path", "method"):
					outside = append(outside, patterns...)
				case ReadsPath("not", raw):
					return nil, nil, nil, errPathMatcher
				default:
					others = true
				}
			}
		default:
			others = true
			aboutPath = aboutPath || ReadsPath(name, raw)
		}
	}
	aboutPath = aboutPath || len(outside) > 0
	switch {
	case !aboutPath:
		return nil, nil, set, nil
	case others:
		return nil, nil, nil, errPathMatcher
	}
	return inside, outside, nil, nil
}

// patternsOf returns the path and method matchers of a set as patterns, or none if the set has
// neither.
func patternsOf(set caddy.ModuleMap) ([]rules.Pattern, error) {
	var paths, methods []string
	for name, to := range map[string]*[]string{"path": &paths, "method": &methods} {
		if raw, ok := set[name]; ok {
			if err := json.Unmarshal(raw, to); err != nil {
				return nil, err
			}
		}
	}
	slices.Sort(methods)
	methods = slices.Compact(methods)
	if len(methods) > 0 && len(paths) == 0 {
		paths = []string{"*"}
	}
	var out []rules.Pattern
	for i, p := range paths {
		if !slices.Contains(paths[:i], p) {
			out = append(out, rules.Pattern{Methods: methods, Path: p})
		}
	}
	return out, nil
}

func onlyKeys(set caddy.ModuleMap, names ...string) bool {
	for name := range set {
		if !slices.Contains(names, name) {
			return false
		}
	}
	return true
}

// ReadsPath reports whether the matcher with this name and configuration looks at a request's path.
func ReadsPath(name string, raw json.RawMessage) bool {
	text := string(raw)
	switch name {
	case "path", "path_regexp", "file":
		return true
	case "expression":
		return strings.Contains(text, "path") || strings.Contains(text, "uri") || strings.Contains(text, "file(")
	case "not":
		var sets []caddy.ModuleMap
		if json.Unmarshal(raw, &sets) != nil {
			return true
		}
		for _, set := range sets {
			for name, raw := range set {
				if ReadsPath(name, raw) {
					return true
				}
			}
		}
		return false
	}
	return strings.Contains(text, "http.request.uri") || strings.Contains(text, "http.request.orig_uri")
}

// PathsConfig is the configuration of a `keygate_paths` directive.
type PathsConfig struct {
	// Keyspace names the keyspace whose error style rejections have. Default: the only keyspace if
	// there is one, else problem details.
	Keyspace string `json:"keyspace,omitempty"`
	rules.PathsConfig
}

// ParsePathsDirective reads the directive `keygate_paths`, which takes no matcher:
//
//	keygate_paths [<keyspace>] {
//		allow   encoded_slash|parameters <path>...   repeatable
//		as_sent <path>...                            repeatable
//		report
//	}
func ParsePathsDirective(h httpcaddyfile.Helper) (*PathsConfig, error) {
	h.Next() // This call skips the name of the directive.
	p := new(PathsConfig)
	l := make(lines)
	l.note("keyspace", h.Dispenser)
	at := *h.Dispenser
	names, err := args(h.Dispenser, 0, 1, "keygate_paths [<keyspace>] { … }")
	if err != nil {
		return nil, err
	}
	if len(names) == 1 {
		if strings.ContainsAny(names[0][:1], "/@*") {
			return nil, at.Errf("keygate_paths takes no matcher because it applies to the whole site; write exceptions inside its block, such as 'as_sent %s'", "/s3/*")
		}
		p.Keyspace = names[0]
	}
	app, err := OptionApp(h)
	if err != nil {
		return nil, err
	}
	if app == nil {
		return nil, at.Err("keygate_paths needs the global option keygate { … }")
	}
	if p.Keyspace != "" {
		if _, err := app.Resolve(p.Keyspace); err != nil {
			return nil, at.WrapErr(err)
		}
	}
	if err := block(h.Dispenser, "keygate_paths", pathsOptions(l, &p.PathsConfig)); err != nil {
		return nil, err
	}
	if _, err := CompilePaths(p.PathsConfig); err != nil {
		return nil, l.locate(&at, err)
	}
	return p, nil
}

// CompilePaths compiles c. Its errors are of the type fieldError.
func CompilePaths(c rules.PathsConfig) (*rules.Paths, error) {
	set, err := (&HandlerConfig{Config: rules.Config{Paths: c}}).compileRules(nil)
	if err != nil {
		return nil, err
	}
	return set.Paths, nil
}
