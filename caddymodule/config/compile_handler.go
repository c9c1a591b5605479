package config

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
	"github.com/keygate-dev/keygate/plugin/rules"
)

// FieldName matches a header's name or another token (RFC 9110, section 5.6.2) of at most 100
// characters.
var FieldName = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}$")

// Compile checks c against the keyspace and compiles its rules. Its errors are of the type
// fieldError. ks may be nil if c is StripOnly.
func (c *HandlerConfig) Compile(ks *Keyspace) (*rules.Set, error) {
	if c.StripOnly {
		return nil, nil
	}
	for i := range c.Costs {
		c.Costs[i].Actual = http.CanonicalHeaderKey(c.Costs[i].Actual)
	}
	bit := func(scope string) (uint64, bool) {
		b, ok := ks.Scopes.Bit(scope)
		return uint64(b), ok
	}
	set, err := c.compileRules(bit)
	if err != nil {
		return nil, err
	}
	if err := c.checkContradictions(); err != nil {
		return nil, err
	}
	if err := c.checkCosts(ks); err != nil {
		return nil, err
	}
	if err := c.checkOverrides(); err != nil {
		return nil, err
	}
	if _, err := c.CompileUpgrades(); err != nil {
		return nil, err
	}
	if err := c.CORS.Check(); err != nil {
		return nil, err
	}
	if len(c.Realm) > 255 || strings.ContainsFunc(c.Realm, func(r rune) bool { return r > unicode.MaxASCII || !unicode.IsPrint(r) }) {
		return nil, Errorf("realm", "realm: at most 255 printable ASCII characters")
	}
	return set, nil
}

// compileRules compiles the rules. An error of rules.New does not name the wrong field, so
// compileRules then adds the rules one at a time until the error occurs.
func (c *HandlerConfig) compileRules(bit func(string) (uint64, bool)) (*rules.Set, error) {
	config := c.Config
	config.Paths.Report = config.Paths.Report || c.Observe && !config.Pathless()
	set, whole := rules.New(config, bit)
	if whole == nil {
		return set, nil
	}
	part := rules.Config{}
	var path string
	add := func(field string, n int, grow func(n int)) bool {
		for i := range n {
			grow(i + 1)
			if _, err := rules.New(part, bit); err != nil {
				path = fmt.Sprintf("%s[%d]", field, i)
				return true
			}
		}
		return false
	}
	_ = add("only", len(c.Only), func(n int) { part.Only = c.Only[:n] }) ||
		add("except", len(c.Except), func(n int) { part.Except = c.Except[:n] }) ||
		add("paths.encoded_slash", len(c.Paths.EncodedSlash), func(n int) { part.Paths.EncodedSlash = c.Paths.EncodedSlash[:n] }) ||
		add("paths.parameters", len(c.Paths.Parameters), func(n int) { part.Paths.Parameters = c.Paths.Parameters[:n] }) ||
		add("paths.as_sent", len(c.Paths.AsSent), func(n int) { part.Paths.AsSent = c.Paths.AsSent[:n] }) ||
		add("public", len(c.Public), func(n int) { part.Public = c.Public[:n] }) ||
		add("optional", len(c.Optional), func(n int) { part.Optional = c.Optional[:n] }) ||
		add("protect", len(c.Protect), func(n int) { part.Protect = c.Protect[:n] }) ||
		add("scopes", len(c.Scopes), func(n int) { part.Scopes = c.Scopes[:n] }) ||
		add("costs", len(c.Costs), func(n int) { part.Costs = c.Costs[:n] })
	return nil, &fieldError{path, whole}
}

// HeaderOptions returns which limit headers the handler's responses carry.
func (c *HandlerConfig) HeaderOptions(ks *Keyspace) ratelimit.HeaderOptions {
	if c.StripOnly {
		return ratelimit.HeaderOptions{}
	}
	o := ks.headers
	if c.Headers != nil {
		o = *c.Headers
	}
	return ratelimit.HeaderOptions{X: !o.NoX, IETF: !o.NoIETF, DeltaReset: o.ResetDelta}
}

// stated is one path pattern together with its option and its field.
type stated struct {
	what, path string
	rules.Pattern
}

// checkContradictions returns an error if a path has two classes, such as public and protect. A
// public path must also have no scope or cost, because no key is checked there.
func (c *HandlerConfig) checkContradictions() error {
	var classes, asks []stated
	for _, l := range []struct {
		what     string
		patterns []rules.Pattern
	}{{"public", c.Public}, {"optional", c.Optional}, {"protect", c.Protect}} {
		for i, p := range l.patterns {
			classes = append(classes, stated{l.what, fmt.Sprintf("%s[%d]", l.what, i), p})
		}
	}
	for i, r := range c.Scopes {
		asks = append(asks, stated{"scope", fmt.Sprintf("scopes[%d]", i), r.Pattern})
	}
	for i, r := range c.Costs {
		asks = append(asks, stated{"cost", fmt.Sprintf("costs[%d]", i), r.Pattern})
	}
	for i, s := range classes {
		for _, other := range classes[:i] {
			if s.Path == other.Path && overlap(s.Methods, other.Methods) {
				if s.what == other.what {
					return Errorf(s.path, "%s '%s' is stated twice", s.what, s)
				}
				return Errorf(s.path, "'%s' is both %s and %s: remove it from one", s.Pattern, other.what, s.what)
			}
		}
	}
	for _, s := range asks {
		for _, pub := range classes {
			// A rule for some methods is an exception to a rule for all methods.
			if pub.what == "public" && s.Path == pub.Path && overlap(s.Methods, pub.Methods) {
				return Errorf(s.path, "'%s' is public, where no key is checked, so its %s has no effect: make it optional, or remove one", s.Pattern, s.what)
			}
		}
	}
	return nil
}

// overlap reports whether two lists of methods conflict. Two lists conflict if they share a method
// or are both empty (all methods). A list of some methods is an exception to an empty one, not a
// conflict.
func overlap(a, b []string) bool {
	if len(a) == 0 || len(b) == 0 {
		return len(a) == len(b)
	}
	return slices.ContainsFunc(a, func(m string) bool { return slices.Contains(b, m) })
}

// checkCosts checks the names of cost headers, and that no single request costs more than the
// quota of a plan.
func (c *HandlerConfig) checkCosts(ks *Keyspace) error {
	for i, r := range c.Costs {
		path := fmt.Sprintf("costs[%d]", i)
		if r.Actual != "" && !FieldName.MatchString(r.Actual) {
			return Errorf(path, "cost of '%s': '%s' is not a header name", r.Path, r.Actual)
		}
		if r.Max != 0 && (r.Actual == "" || r.Max < r.Cost || r.Max > rules.MaxCost) {
			return Errorf(path, "cost of '%s': max is charged if the actual cost does not come, so it needs 'actual', and is at least the cost and at most %d", r.Path, int64(rules.MaxCost))
		}
		if plan, quota := exceeded(ks.Keyspace, r.Cost); quota != nil {
			return Errorf(path, "cost %d of '%s' is above the quota %s of plan '%s' in keyspace '%s': such a request would always be rejected", r.Cost, r.Path, quota.Name, plan, ks.Name)
		}
	}
	return nil
}

// exceeded returns the first plan with a quota below cost, and that quota; "" and nil if there is
// none.
func exceeded(ks *gateway.Keyspace, cost int64) (string, *ratelimit.Policy) {
	for _, name := range ks.PlanOrder {
		for _, l := range ks.Plans[name].Limits {
			if l.Kind == ratelimit.Quota && cost > l.Limit {
				return name, l
			}
		}
	}
	return "", nil
}
