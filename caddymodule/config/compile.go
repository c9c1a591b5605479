package config

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management/webhooks"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
	"github.com/keygate-dev/keygate/plugin/usage"
)

// Defaults for options that a keyspace does not set.
var (
	defaultPrefixes = []apikey.Prefix{
		{Value: "kg_live_", Environment: "live"},
		{Value: "kg_test_", Environment: "test"},
	}
	defaultFormat   = apikey.Format{Length: 32, Checksum: apikey.CRC32}
	defaultFailures = "100/m"
	defaultPlanName = "default"
)

// tokenPrefix begins every management token, so no key may begin with it.
const tokenPrefix = "kgm_"

// Names of keyspaces and plans appear in headers, metrics and paths, so only characters that are
// safe there are allowed.
var (
	keyspaceName    = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]{0,62}$`)
	planName        = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)
	environmentName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$`)
	// RFC 6749 section 3.3 allows more characters in a scope. Commas, and characters that shells
	// and headers quote, are excluded here.
	scopeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.:/*-]{0,62}$`)
)

// Keyspace is a compiled KeyspaceConfig: the keyspace that the engine checks with, and settings of
// the HTTP handlers. Immutable.
type Keyspace struct {
	*gateway.Keyspace
	// Style is the style of rejections' bodies: StyleProblem, StyleDetail or StyleEnvelope.
	Style string
	// InQuery reports whether a credential may be in the query.
	InQuery   bool
	headers   HeadersConfig
	AdminOpen bool
	webhooks  webhooks.Settings
	// Requests configures the log of keys' last requests; nil turns it off.
	Requests *usage.Log
	// UsageHours is how long usage is kept by hour.
	UsageHours time.Duration
	// UsageOff reports whether usage is not counted.
	UsageOff bool
}

// Configured returns the keyspaces' configurations. If the configuration has none, there is one
// default keyspace.
func (a *Config) Configured() map[string]*KeyspaceConfig {
	if len(a.Keyspaces) == 0 {
		return map[string]*KeyspaceConfig{DefaultKeyspace: {}}
	}
	return a.Keyspaces
}

// Resolve returns the keyspace that a directive refers to. An empty name means the only
// keyspace, else the default one; it is an error if there are several and none of them is the
// default.
func (a *Config) Resolve(name string) (string, error) {
	all := a.Configured()
	if name == "" {
		if len(all) == 1 {
			for only := range all {
				return only, nil
			}
		}
		name = DefaultKeyspace
		if _, ok := all[name]; !ok {
			return "", fmt.Errorf("there are several keyspaces: name one of them (%s)", list(all))
		}
		return name, nil
	}
	if _, ok := all[name]; !ok {
		return "", fmt.Errorf("unknown keyspace '%s' (available: %s)", name, list(all))
	}
	return name, nil
}

// list returns the sorted keys of m, separated by commas, for an error message.
func list[V any](m map[string]V) string {
	return strings.Join(slices.Sorted(maps.Keys(m)), ", ")
}

// compile checks and compiles every keyspace. It reads nothing outside the configuration. Its
// errors are of the type fieldError.
func (a *Config) compile() (map[string]*Keyspace, error) {
	if err := a.checkStores(); err != nil {
		return nil, err
	}
	all := a.Configured()
	out := make(map[string]*Keyspace, len(all))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		path := "keyspaces." + name
		if !keyspaceName.MatchString(name) {
			return nil, Errorf(path, "keyspace '%s': a name is 1 to 63 of a-z, 0-9, '_', '.' and '-', and begins with a letter or digit", name)
		}
		if all[name] == nil {
			return nil, Errorf(path, "keyspace '%s' is null", name)
		}
		ks, err := all[name].Compile(name)
		if err != nil {
			return nil, within(path, err)
		}
		out[name] = ks
	}
	return out, nil
}

// Compile checks c and builds the keyspace with this name.
func (c *KeyspaceConfig) Compile(name string) (*Keyspace, error) {
	gk := &gateway.Keyspace{Name: name}
	ks := &Keyspace{Keyspace: gk}
	var err error
	if gk.Grammar, err = c.grammar(); err != nil {
		return nil, err
	}
	if gk.Places, err = c.places(); err != nil {
		return nil, err
	}
	if gk.Scopes, err = c.scopes(); err != nil {
		return nil, err
	}
	if err := c.plans(gk); err != nil {
		return nil, err
	}
	if gk.Failures, err = c.failures(); err != nil {
		return nil, err
	}
	if gk.Refusals, err = c.Errors.Compile(); err != nil {
		return nil, within("errors", err)
	}
	if ks.Requests, err = c.Requests.compile(gk.Grammar.Clean); err != nil {
		return nil, within("requests", err)
	}
	if ks.UsageHours, err = c.Usage.compile(); err != nil {
		return nil, within("usage", err)
	}
	ks.UsageOff = c.Usage != nil && c.Usage.Off
	if ks.webhooks, err = c.Webhooks.Compile(); err != nil {
		return nil, within("webhooks", err)
	}
	switch c.AdminAPI {
	case "":
	case "open":
		ks.AdminOpen = true
	default:
		return nil, Errorf("admin_api", "admin_api takes 'open', not '%s'", c.AdminAPI)
	}
	if c.Headers != nil {
		ks.headers = *c.Headers
	}
	ks.Style = StyleProblem
	if c.Errors != nil && c.Errors.Style != "" {
		ks.Style = c.Errors.Style
	}
	ks.InQuery = gk.Places.InQuery()
	return ks, nil
}

// grammar compiles the shapes of keys. It adds them one at a time, so that an error names the
// shape that caused it.
func (c *KeyspaceConfig) grammar() (*apikey.Grammar, error) {
	prefixes, format := c.Prefixes, defaultFormat
	if len(prefixes) == 0 {
		prefixes = defaultPrefixes
	}
	// An error about a default prefix is caused by the format, so the error names the field
	// format.
	fieldOf := func(i int) string {
		if len(c.Prefixes) == 0 {
			return "format"
		}
		return fmt.Sprintf("prefixes[%d]", i)
	}
	if c.Format != nil {
		if c.Format.Length < 0 {
			return nil, Errorf("format.length", "length %d: a key has at least one character after its prefix", c.Format.Length)
		}
		if c.Format.Length != 0 {
			format.Length = c.Format.Length
		}
		if c.Format.Checksum != "" {
			format.Checksum = c.Format.Checksum
		}
		if format.Checksum != apikey.CRC32 && format.Checksum != apikey.NoChecksum {
			return nil, Errorf("format.checksum", "checksum is 'crc32' or 'none', not '%s'", format.Checksum)
		}
	}
	environments := make(map[string]string)
	for i, p := range prefixes {
		path := fieldOf(i)
		if strings.HasPrefix(p.Value, tokenPrefix) {
			return nil, Errorf(path, "prefix '%s': management tokens begin with %s, so keys can't", p.Value, tokenPrefix)
		}
		if !environmentName.MatchString(p.Environment) {
			return nil, Errorf(path, "prefix '%s': '%s' is not a name of an environment, which is 1 to 32 of letters, digits, '_' and '-'", p.Value, p.Environment)
		}
		if other, ok := environments[p.Environment]; ok {
			return nil, Errorf(path, "environment '%s' has two prefixes, '%s' and '%s': it is unclear which one new keys get; put the prefix of older keys into an accept block", p.Environment, other, p.Value)
		}
		environments[p.Environment] = p.Value
		if _, err := apikey.NewGrammar(prefixes[:i+1], format, nil); err != nil {
			return nil, &fieldError{path, err}
		}
	}
	names := make(map[string]bool)
	accept := slices.Clone(c.Accept)
	for i := range accept {
		path := fmt.Sprintf("accept[%d]", i)
		a := &accept[i]
		if !planName.MatchString(a.Name) {
			return nil, Errorf(path, "accept needs a name of letters, digits, '_', '.' and '-', not '%s'", a.Name)
		}
		if names[a.Name] {
			return nil, Errorf(path, "accept '%s' is stated twice", a.Name)
		}
		names[a.Name] = true
		switch a.Charset {
		case "":
			a.Charset = apikey.Base62
		case apikey.Base62, apikey.Base58, apikey.Hex, apikey.AnyChar:
		default:
			return nil, Errorf(path+".charset", "accept '%s': charset is base62, base58, hex or any, not '%s'", a.Name, a.Charset)
		}
		if a.MinLength < 1 || a.MaxLength < a.MinLength {
			return nil, Errorf(path+".length", "accept '%s' needs a length, such as 'length 20-64', whose first number is at least 1 and not above the second", a.Name)
		}
		if _, err := apikey.NewGrammar(prefixes, format, accept[:i+1]); err != nil {
			return nil, &fieldError{path, err}
		}
	}
	return apikey.NewGrammar(prefixes, format, accept)
}

// places compiles the places of a request where a credential may be.
func (c *KeyspaceConfig) places() (*apikey.Places, error) {
	for i, p := range c.Credentials {
		path := fmt.Sprintf("credentials[%d]", i)
		for _, q := range c.Credentials[:i] {
			if p.Same(q) {
				return nil, Errorf(path, "credentials: '%s %s' is stated twice", p.Kind, p.Name)
			}
		}
		if _, err := apikey.NewPlaces(c.Credentials[:i+1]...); err != nil {
			return nil, &fieldError{path, err}
		}
	}
	return apikey.NewPlaces(c.Credentials...)
}

// scopes checks the names of the scopes and returns them.
func (c *KeyspaceConfig) scopes() (gateway.Scopes, error) {
	s := gateway.Scopes{Names: slices.Clone(c.Scopes), Cumulative: c.CumulativeScopes}
	if len(s.Names) > gateway.MaxScopes {
		return s, Errorf("scopes", "%d scopes: a keyspace has at most %d", len(s.Names), gateway.MaxScopes)
	}
	for i, n := range s.Names {
		if !scopeName.MatchString(n) {
			return s, Errorf("scopes", "'%s' is not a scope name, which is 1 to 63 of letters, digits and '_.:/*-' and begins with a letter or digit", n)
		}
		if slices.Contains(s.Names[:i], n) {
			return s, Errorf("scopes", "scope '%s' is stated twice", n)
		}
	}
	return s, nil
}

// failures compiles the limit on requests with unknown keys per client address.
func (c *KeyspaceConfig) failures() (*ratelimit.Policy, error) {
	text := c.Failures
	switch text {
	case "off":
		return nil, nil
	case "":
		text = defaultFailures
	}
	if !strings.Contains(text, " per ") {
		text += " per address"
	}
	p, err := ratelimit.ParseRate(text)
	if err != nil {
		return nil, Errorf("failures", "failures: %w", err)
	}
	if p.Per != ratelimit.PerAddress {
		return nil, Errorf("failures", "failures are always counted per address: remove the word 'per' and what follows")
	}
	return p, nil
}

// DefaultRealm is the realm in WWW-Authenticate if the keyspace's directive sets none.
func DefaultRealm(keyspace string) string {
	if keyspace == DefaultKeyspace {
		return "API"
	}
	return keyspace
}
