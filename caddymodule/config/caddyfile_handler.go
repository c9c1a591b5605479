package config

import (
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	"github.com/keygate-dev/keygate/plugin/rules"
)

// Directive is a `keygate` directive of a Caddyfile.
type Directive struct {
	Config HandlerConfig
	// Matcher chooses the requests that the directive handles; empty for all.
	Matcher caddy.ModuleMap
}

// ParseHandlerDirective reads the directive `keygate`:
//
//	keygate [<matcher>] [<keyspace>] {
//		public   [<method>[,<method>...]] <path>...          repeatable
//		optional [<method>[,<method>...]] <path>...          repeatable
//		protect  [<method>[,<method>...]] <path>...          repeatable
//		scope    [<method>[,<method>...]] <path>... <scope>  repeatable
//		scope_default allow|deny
//		cost     [<method>[,<method>...]] <path>... <n> {    repeatable
//			refund 5xx
//			actual <header>
//			max <n>
//		}
//		allow_upgrade <path>...                              repeatable
//		paths {
//			allow   encoded_slash|parameters <path>...   repeatable
//			as_sent <path>...                            repeatable
//			report
//		}
//		observe
//		forward_credential
//		method_override check|pass
//		cache_headers as_sent
//		cors  <origin>...
//		cors {
//			origins <origin>...
//			methods <method>...
//			headers <name>...
//			credentials
//			max_age <duration>
//			answer
//		}
//		realm <realm>
//		headers off
//		headers {
//			x     on|off
//			ietf  on|off
//			reset unix|delta
//		}
//	}
//
// A matcher that consists only of the matchers `path`, `not path` and `method` becomes the directive's own rules about
// paths. With any other matcher, ParseHandlerDirective returns a second directive for the requests that the matcher
// excludes. That one checks no key: it removes headers that tell upstreams who the caller is, so that clients can't
// forge them.
func ParseHandlerDirective(h httpcaddyfile.Helper) ([]Directive, error) {
	h.Next() // A matcher, if there is one, follows the directive's name.
	line := *h.Dispenser
	matcher, err := h.ExtractMatcherSet()
	if err != nil {
		return nil, err
	}
	a, err := OptionApp(h)
	if err != nil {
		return nil, err
	}
	if a == nil {
		h.Next()
		return nil, h.Err("keygate needs the global option keygate { … }, which holds the plans and the store")
	}
	var c HandlerConfig
	if c.Only, c.Except, matcher, err = splitMatcher(matcher); err != nil {
		return nil, line.WrapErr(err)
	}
	at := *h.Dispenser
	if err := parseHandler(h.Dispenser, a, &c); err != nil {
		return nil, err
	}
	at.Next()
	if err := checkDropped(h, a, c.Keyspace); err != nil {
		return nil, locateGlobal(&at, err)
	}
	LastAdapted.addHandler(&c, &at)
	out := []Directive{{c, matcher}}
	if matcher != nil {
		out = append(out, Directive{Config: HandlerConfig{
			StripOnly: true, Keyspace: c.Keyspace, AllowUpgrade: c.AllowUpgrade, MethodOverride: c.MethodOverride, KeepOverrides: c.KeepOverrides,
		}})
	}
	return out, nil
}

// OptionApp returns the configuration in the global option keygate, or nil if the Caddyfile has
// none.
func OptionApp(h httpcaddyfile.Helper) (*Config, error) {
	app, ok := h.Option(AppName).(httpcaddyfile.App)
	if !ok {
		return nil, nil
	}
	a := new(Config)
	if err := json.Unmarshal(app.Value, a); err != nil {
		return nil, h.Errf("reading the global option keygate: %w", err)
	}
	return a, nil
}

// UnmarshalCaddyfile sets up c from a directive without a matcher. Checks that need the global
// option happen later, when the handler is provisioned. See ParseHandlerDirective for the syntax.
func (c *HandlerConfig) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return parseHandler(d, nil, c)
}

// parseHandler reads a directive into c. If a is not nil, it also checks c against the global
// option.
func parseHandler(d *caddyfile.Dispenser, a *Config, c *HandlerConfig) error {
	d.Next() // This call skips the name of the directive.
	l := make(lines)
	for _, field := range []string{"keyspace", "only", "except"} {
		l.note(field, d)
	}
	names, err := args(d, 0, 1, "keygate [<matcher>] [<keyspace>] { … }")
	if err != nil {
		return err
	}
	if len(names) == 1 {
		c.Keyspace = names[0]
	}
	var ks *Keyspace
	if a != nil {
		name, err := a.Resolve(c.Keyspace)
		if err != nil {
			return d.WrapErr(err)
		}
		if ks, err = a.Configured()[name].Compile(name); err != nil {
			return d.WrapErr(err)
		}
	}
	if err := block(d, "keygate", handlerOptions(l, c)); err != nil {
		return err
	}
	if ks == nil {
		return nil
	}
	_, err = c.Compile(ks)
	return l.locate(d, err)
}

// handlerOptions returns the options of the directive keygate. Their parse functions write to c
// and record lines in l.
func handlerOptions(l lines, c *HandlerConfig) options {
	opts := options{
		"scope": {repeatable: true, parse: func(d *caddyfile.Dispenser) error {
			at := *d
			patterns, scope, err := patternsAnd(d, "scope [<methods>] <path>... <scope>")
			if err != nil {
				return err
			}
			for _, p := range patterns {
				l.note(fmt.Sprintf("scopes[%d]", len(c.Scopes)), &at)
				c.Scopes = append(c.Scopes, rules.ScopeRule{Pattern: p, Scope: scope})
			}
			return nil
		}},
		"scope_default": {parse: func(d *caddyfile.Dispenser) error {
			var text string
			if err := oneArg(d, "scope_default allow|deny", &text); err != nil {
				return err
			}
			if text != "allow" && text != "deny" {
				return d.Errf("scope_default is 'allow' or 'deny', not '%s'", text)
			}
			c.ScopeDeny = text == "deny"
			return nil
		}},
		"cost": {repeatable: true, parse: func(d *caddyfile.Dispenser) error {
			return parseCost(d, l, c)
		}},
		"paths":   {parse: func(d *caddyfile.Dispenser) error { return parsePaths(d, l, &c.Paths) }},
		"observe": {parse: func(d *caddyfile.Dispenser) error { return bare(d, &c.Observe) }},
		"forward_credential": {parse: func(d *caddyfile.Dispenser) error {
			return bare(d, &c.ForwardCredential)
		}},
		"keep_overrides": {parse: func(d *caddyfile.Dispenser) error { return bare(d, &c.KeepOverrides) }},
		"cache_headers": {parse: func(d *caddyfile.Dispenser) error {
			var text string
			if err := oneArg(d, "cache_headers as_sent", &text); err != nil {
				return err
			}
			if text != "as_sent" {
				return d.Errf("cache_headers takes 'as_sent', not '%s'", text)
			}
			c.CacheHeadersAsSent = true
			return nil
		}},
		"method_override": overrideOption(l, c),
		"allow_upgrade":   upgradeOption(l, c),
		"cors":            corsOption(l, c),
		"realm": {parse: func(d *caddyfile.Dispenser) error {
			l.note("realm", d)
			return oneArg(d, "realm <realm>", &c.Realm)
		}},
		"headers": {parse: func(d *caddyfile.Dispenser) (err error) {
			c.Headers, err = parseHeaders(d)
			return err
		}},
	}
	for name, to := range map[string]*[]rules.Pattern{"public": &c.Public, "optional": &c.Optional, "protect": &c.Protect} {
		opts[name] = option{repeatable: true, parse: func(d *caddyfile.Dispenser) error {
			at := *d
			a, err := args(d, 1, -1, name+" [<methods>] <path>...")
			if err != nil {
				return err
			}
			patterns, err := rules.ParsePatterns(a)
			if err != nil {
				return at.Errf("%s: %w", name, err)
			}
			for _, p := range patterns {
				l.note(fmt.Sprintf("%s[%d]", name, len(*to)), &at)
				*to = append(*to, p)
			}
			return nil
		}}
	}
	return opts
}

// patternsAnd reads a line of path patterns whose last word is not a pattern, such as a scope, and returns both.
func patternsAnd(d *caddyfile.Dispenser, usage string) ([]rules.Pattern, string, error) {
	at := *d
	a, err := args(d, 2, -1, usage)
	if err != nil {
		return nil, "", err
	}
	last := len(a) - 1
	patterns, err := rules.ParsePatterns(a[:last])
	if err != nil {
		return nil, "", at.Errf("%s: %w; the syntax is '%s'", at.Val(), err, usage)
	}
	return patterns, a[last], nil
}

// parseCost reads a cost line and its block.
func parseCost(d *caddyfile.Dispenser, l lines, c *HandlerConfig) error {
	at := *d
	patterns, text, err := patternsAnd(d, "cost [<methods>] <path>... <n>")
	if err != nil {
		return err
	}
	cost, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return at.Errf("cost: '%s' is not a whole number", text)
	}
	var refund bool
	var actual string
	var most int
	if err := block(d, "cost", options{
		"refund": {parse: func(d *caddyfile.Dispenser) error {
			var when string
			if err := oneArg(d, "refund 5xx", &when); err != nil {
				return err
			}
			if when != "5xx" {
				return d.Errf("refund takes '5xx', not '%s'", when)
			}
			refund = true
			return nil
		}},
		"actual": {parse: func(d *caddyfile.Dispenser) error {
			return oneArg(d, "actual <header>", &actual)
		}},
		"max": {parse: func(d *caddyfile.Dispenser) (err error) {
			most, err = positive(d, "max")
			return err
		}},
	}); err != nil {
		return err
	}
	for _, p := range patterns {
		l.note(fmt.Sprintf("costs[%d]", len(c.Costs)), &at)
		c.Costs = append(c.Costs, rules.CostRule{Pattern: p, Cost: cost, Refund: refund, Actual: actual, Max: int64(most)})
	}
	return nil
}

var _ caddyfile.Unmarshaler = (*HandlerConfig)(nil)
