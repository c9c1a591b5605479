package caddymodule

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
	"github.com/keygate-dev/keygate/plugin/usage"
)

// The defaults of what a keyspace leaves out.
var (
	defaultPrefixes = []apikey.Prefix{
		{Value: "kg_live_", Environment: "live"},
		{Value: "kg_test_", Environment: "test"},
	}
	defaultFormat   = apikey.Format{Length: 32, Checksum: apikey.CRC32}
	defaultFailures = "100/m"
	defaultPlanName = "default"
)

// tokenPrefix begins every management token, and therefore no key.
const tokenPrefix = "kgm_"

// Names end up in headers, metrics and paths, so they are kept plain.
var (
	keyspaceName    = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]{0,62}$`)
	planName        = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)
	environmentName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$`)
	// RFC 6749 section 3.3 allows more in a scope; commas, and what shells and headers quote, are left out.
	scopeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.:/*-]{0,62}$`)
)

// keyspace is a compiled KeyspaceConfig: what the engine judges by, and what only
// the proxy side needs to know. Immutable.
type keyspace struct {
	*gateway.Keyspace
	// style is the style of the bodies of refusals.
	style string
	// inQuery reports whether a credential may stand in the query.
	inQuery   bool
	headers   HeadersConfig
	adminOpen bool
	webhooks  management.WebhookSettings
	// requests says how keys' last requests are remembered; nil: they are not.
	requests *usage.Log
	// usageHours is for how long usage is kept by hour.
	usageHours time.Duration
	// usageOff says that usage is not counted.
	usageOff bool
}

// configured returns the keyspaces' configurations: the default keyspace where the
// configuration states none.
func (a *Config) configured() map[string]*KeyspaceConfig {
	if len(a.Keyspaces) == 0 {
		return map[string]*KeyspaceConfig{defaultKeyspace: {}}
	}
	return a.Keyspaces
}

// resolve returns the name of the keyspace that a directive means by name, which may
// be empty.
func (a *Config) resolve(name string) (string, error) {
	all := a.configured()
	if name == "" {
		if len(all) == 1 {
			for only := range all {
				return only, nil
			}
		}
		name = defaultKeyspace
		if _, ok := all[name]; !ok {
			return "", fmt.Errorf("there are several keyspaces: name the one that is meant (%s)", list(all))
		}
		return name, nil
	}
	if _, ok := all[name]; !ok {
		return "", fmt.Errorf("unknown keyspace '%s' (there is %s)", name, list(all))
	}
	return name, nil
}

// list names the keys of m for a message.
func list[V any](m map[string]V) string {
	return strings.Join(slices.Sorted(maps.Keys(m)), ", ")
}

// compile checks every keyspace and builds what requests are judged by. It touches
// nothing outside the configuration. Errors are fieldErrors.
func (a *Config) compile() (map[string]*keyspace, error) {
	if err := a.checkStores(); err != nil {
		return nil, err
	}
	all := a.configured()
	out := make(map[string]*keyspace, len(all))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		path := "keyspaces." + name
		if !keyspaceName.MatchString(name) {
			return nil, fieldErrorf(path, "keyspace '%s': a name is 1 to 63 of a-z, 0-9, '_', '.' and '-', and begins with a letter or digit", name)
		}
		if all[name] == nil {
			return nil, fieldErrorf(path, "keyspace '%s' is null", name)
		}
		ks, err := all[name].compile(name)
		if err != nil {
			return nil, within(path, err)
		}
		out[name] = ks
	}
	return out, nil
}

// compile checks c and builds the keyspace of that name.
func (c *KeyspaceConfig) compile(name string) (*keyspace, error) {
	gk := &gateway.Keyspace{Name: name}
	ks := &keyspace{Keyspace: gk}
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
	if gk.Refusals, err = c.Errors.compile(); err != nil {
		return nil, within("errors", err)
	}
	if ks.requests, err = c.Requests.compile(gk.Grammar.Clean); err != nil {
		return nil, within("requests", err)
	}
	if ks.usageHours, err = c.Usage.compile(); err != nil {
		return nil, within("usage", err)
	}
	ks.usageOff = c.Usage != nil && c.Usage.Off
	if ks.webhooks, err = c.Webhooks.compile(); err != nil {
		return nil, within("webhooks", err)
	}
	switch c.AdminAPI {
	case "":
	case "open":
		ks.adminOpen = true
	default:
		return nil, fieldErrorf("admin_api", "admin_api takes 'open', not '%s'", c.AdminAPI)
	}
	if c.Headers != nil {
		ks.headers = *c.Headers
	}
	ks.style = styleProblem
	if c.Errors != nil && c.Errors.Style != "" {
		ks.style = c.Errors.Style
	}
	ks.inQuery = gk.Places.InQuery()
	return ks, nil
}

// grammar compiles the shapes of keys. Shapes are added one by one, so that an error
// can be told of the one that brought it.
func (c *KeyspaceConfig) grammar() (*apikey.Grammar, error) {
	prefixes, format := c.Prefixes, defaultFormat
	if len(prefixes) == 0 {
		prefixes = defaultPrefixes
	}
	// Where the prefixes are the default ones, it is the format that makes them wrong.
	fieldOf := func(i int) string {
		if len(c.Prefixes) == 0 {
			return "format"
		}
		return fmt.Sprintf("prefixes[%d]", i)
	}
	if c.Format != nil {
		if c.Format.Length < 0 {
			return nil, fieldErrorf("format.length", "length %d: a key has at least one character after its prefix", c.Format.Length)
		}
		if c.Format.Length != 0 {
			format.Length = c.Format.Length
		}
		if c.Format.Checksum != "" {
			format.Checksum = c.Format.Checksum
		}
		if format.Checksum != apikey.CRC32 && format.Checksum != apikey.NoChecksum {
			return nil, fieldErrorf("format.checksum", "checksum is 'crc32' or 'none', not '%s'", format.Checksum)
		}
	}
	environments := make(map[string]string)
	for i, p := range prefixes {
		path := fieldOf(i)
		if strings.HasPrefix(p.Value, tokenPrefix) {
			return nil, fieldErrorf(path, "prefix '%s': %s is how management tokens begin", p.Value, tokenPrefix)
		}
		if !environmentName.MatchString(p.Environment) {
			return nil, fieldErrorf(path, "prefix '%s': '%s' is no name of an environment, which is 1 to 32 of letters, digits, '_' and '-'", p.Value, p.Environment)
		}
		if other, ok := environments[p.Environment]; ok {
			return nil, fieldErrorf(path, "environment '%s' has two prefixes, '%s' and '%s': new keys could not choose; a prefix of older keys goes into an accept block", p.Environment, other, p.Value)
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
			return nil, fieldErrorf(path, "accept needs a name of letters, digits, '_', '.' and '-', not '%s'", a.Name)
		}
		if names[a.Name] {
			return nil, fieldErrorf(path, "accept '%s' is stated twice", a.Name)
		}
		names[a.Name] = true
		switch a.Charset {
		case "":
			a.Charset = apikey.Base62
		case apikey.Base62, apikey.Base58, apikey.Hex, apikey.AnyChar:
		default:
			return nil, fieldErrorf(path+".charset", "accept '%s': charset is base62, base58, hex or any, not '%s'", a.Name, a.Charset)
		}
		if a.MinLength < 1 || a.MaxLength < a.MinLength {
			return nil, fieldErrorf(path+".length", "accept '%s' needs a length, such as 'length 20-64', whose first number is at least 1 and whose second is no smaller", a.Name)
		}
		if _, err := apikey.NewGrammar(prefixes, format, accept[:i+1]); err != nil {
			return nil, &fieldError{path, err}
		}
	}
	return apikey.NewGrammar(prefixes, format, accept)
}

// places compiles where credentials may stand.
func (c *KeyspaceConfig) places() (*apikey.Places, error) {
	for i, p := range c.Credentials {
		path := fmt.Sprintf("credentials[%d]", i)
		for _, q := range c.Credentials[:i] {
			if p.Same(q) {
				return nil, fieldErrorf(path, "credentials: '%s %s' is stated twice", p.Kind, p.Name)
			}
		}
		if _, err := apikey.NewPlaces(c.Credentials[:i+1]...); err != nil {
			return nil, &fieldError{path, err}
		}
	}
	return apikey.NewPlaces(c.Credentials...)
}

// scopes compiles the scopes.
func (c *KeyspaceConfig) scopes() (gateway.Scopes, error) {
	s := gateway.Scopes{Names: slices.Clone(c.Scopes), Cumulative: c.CumulativeScopes}
	if len(s.Names) > gateway.MaxScopes {
		return s, fieldErrorf("scopes", "%d scopes: a keyspace has at most %d", len(s.Names), gateway.MaxScopes)
	}
	for i, n := range s.Names {
		if !scopeName.MatchString(n) {
			return s, fieldErrorf("scopes", "'%s' is no name of a scope, which is 1 to 63 of letters, digits and '_.:/*-' and begins with a letter or digit", n)
		}
		if slices.Contains(s.Names[:i], n) {
			return s, fieldErrorf("scopes", "scope '%s' is stated twice", n)
		}
	}
	return s, nil
}

// failures compiles the limit of unknown keys per address.
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
		return nil, fieldErrorf("failures", "failures: %w", err)
	}
	if p.Per != ratelimit.PerAddress {
		return nil, fieldErrorf("failures", "failures are counted per address; nothing else can be stated")
	}
	return p, nil
}

// defaultRealm is the realm of a keyspace whose directive names none.
func defaultRealm(keyspace string) string {
	if keyspace == defaultKeyspace {
		return "API"
	}
	return keyspace
}
