package config

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/keygate-dev/keygate/plugin/apikey"
)

// defaultEnvironment is the environment of a prefix line without one.
const defaultEnvironment = "live"

// keyspaceOptions returns the options of a keyspace. Their parse functions write to ks. path is
// the keyspace's field, such as keyspaces.default.
//
//	prefix <prefix> [<environment>]                  repeatable; environment: live
//	format {
//		length   <characters after the prefix>
//		checksum crc32|none
//	}
//	accept <name> {                                  repeatable
//		prefix  <prefix>
//		length  <n>|<least>-<most>
//		charset base62|base58|hex|any
//	}
//	credentials {
//		default                                      Authorization: Bearer and X-API-Key
//		authorization [<scheme>]
//		header        <name>
//		query         <name>
//		cookie        <name>
//	}
//	scopes <widest> > <narrower> > ...               or: scopes <scope>...
//	plan <name> {                                    repeatable
//		<see parsePlan>
//	}
//	default_plan <name>
//	errors [problem|detail|envelope] {
//		message <reason> <text>
//		code    <reason> <code>
//		status  <reason> <status>
//	}
//	failures <rate>|off
//	max_staleness <duration>
//	headers off
//	headers {
//		x     on|off
//		ietf  on|off
//		reset unix|delta
//	}
//	requests off
//	requests {
//		keep    <n>
//		for     <duration>
//		address full|prefix|off
//		path    full|route
//	}
//	usage off
//	usage {
//		hours <duration>
//	}
//	webhooks {
//		allow_private [<block>...]
//		expiring <duration>...
//		unused   <duration>
//	}
//	admin_api open
func (p *parser) keyspaceOptions(path string, ks *KeyspaceConfig) options {
	note := func(field string, d *caddyfile.Dispenser) { p.lines.note(path+"."+field, d) }
	return options{
		"prefix": {repeatable: true, parse: func(d *caddyfile.Dispenser) error {
			note(fmt.Sprintf("prefixes[%d]", len(ks.Prefixes)), d)
			a, err := args(d, 1, 2, "prefix <prefix> [<environment>]")
			if err != nil {
				return err
			}
			prefix := apikey.Prefix{Value: a[0], Environment: defaultEnvironment}
			if len(a) == 2 {
				prefix.Environment = a[1]
			}
			ks.Prefixes = append(ks.Prefixes, prefix)
			return nil
		}},
		"format": {parse: func(d *caddyfile.Dispenser) error {
			note("format", d)
			ks.Format = new(apikey.Format)
			return parseFormat(d, note, ks.Format)
		}},
		"accept": {repeatable: true, parse: func(d *caddyfile.Dispenser) error {
			note(fmt.Sprintf("accept[%d]", len(ks.Accept)), d)
			accept, err := parseAccept(d)
			ks.Accept = append(ks.Accept, accept)
			return err
		}},
		"credentials": {parse: func(d *caddyfile.Dispenser) error {
			note("credentials", d)
			return parseCredentials(d, note, ks)
		}},
		"scopes": {parse: func(d *caddyfile.Dispenser) (err error) {
			note("scopes", d)
			ks.Scopes, ks.CumulativeScopes, err = parseScopes(d)
			return err
		}},
		"plan": {repeatable: true, parse: func(d *caddyfile.Dispenser) error {
			field := fmt.Sprintf("plans[%d]", len(ks.Plans))
			note(field, d)
			plan := new(PlanConfig)
			ks.Plans = append(ks.Plans, plan)
			return parsePlan(d, func(f string, d *caddyfile.Dispenser) { note(field+"."+f, d) }, plan)
		}},
		"default_plan": {parse: func(d *caddyfile.Dispenser) error {
			note("default_plan", d)
			return oneArg(d, "default_plan <name>", &ks.DefaultPlan)
		}},
		"errors": {parse: func(d *caddyfile.Dispenser) error {
			note("errors", d)
			ks.Errors = new(ErrorsConfig)
			return parseErrors(d, func(f string, d *caddyfile.Dispenser) { note("errors."+f, d) }, ks.Errors)
		}},
		"failures": {parse: func(d *caddyfile.Dispenser) error {
			note("failures", d)
			a, err := args(d, 1, -1, "failures <rate>|off")
			ks.Failures = strings.Join(a, " ")
			return err
		}},
		"max_staleness": {parse: func(d *caddyfile.Dispenser) error {
			note("max_staleness", d)
			return duration(d, &ks.MaxStaleness)
		}},
		"headers": {parse: func(d *caddyfile.Dispenser) (err error) {
			note("headers", d)
			ks.Headers, err = parseHeaders(d)
			return err
		}},
		"requests": {parse: func(d *caddyfile.Dispenser) (err error) {
			note("requests", d)
			ks.Requests, err = parseRequests(d, func(f string, d *caddyfile.Dispenser) { note("requests."+f, d) })
			return err
		}},
		"usage": {parse: func(d *caddyfile.Dispenser) (err error) {
			note("usage", d)
			ks.Usage, err = parseUsage(d, func(f string, d *caddyfile.Dispenser) { note("usage."+f, d) })
			return err
		}},
		"webhooks": {parse: func(d *caddyfile.Dispenser) (err error) {
			note("webhooks", d)
			ks.Webhooks, err = parseWebhooks(d, func(f string, d *caddyfile.Dispenser) { note("webhooks."+f, d) })
			return err
		}},
		"admin_api": {parse: func(d *caddyfile.Dispenser) error {
			note("admin_api", d)
			return oneArg(d, "admin_api open", &ks.AdminAPI)
		}},
	}
}

// noteFunc records the line of a field in the Caddyfile, for error messages. field is a path below
// the field that the calling parse function reads.
type noteFunc func(field string, d *caddyfile.Dispenser)

func parseFormat(d *caddyfile.Dispenser, note noteFunc, f *apikey.Format) error {
	if _, err := args(d, 0, 0, "format { … }"); err != nil {
		return err
	}
	return block(d, "format", options{
		"length": {parse: func(d *caddyfile.Dispenser) (err error) {
			note("format.length", d)
			f.Length, err = positive(d, "length")
			return err
		}},
		"checksum": {parse: func(d *caddyfile.Dispenser) error {
			note("format.checksum", d)
			return oneArg(d, "checksum crc32|none", (*string)(&f.Checksum))
		}},
	})
}

func parseAccept(d *caddyfile.Dispenser) (accept apikey.Accept, err error) {
	a, err := args(d, 1, 1, "accept <name> { … }")
	if err != nil {
		return accept, err
	}
	accept.Name = a[0]
	return accept, block(d, "accept "+accept.Name, options{
		"prefix": {parse: func(d *caddyfile.Dispenser) error {
			return oneArg(d, "prefix <prefix>", &accept.Prefix)
		}},
		"length": {parse: func(d *caddyfile.Dispenser) (err error) {
			var text string
			if err := oneArg(d, "length <least>-<most>", &text); err != nil {
				return err
			}
			least, most, isRange := strings.Cut(text, "-")
			if !isRange {
				most = least
			}
			var errMost error
			accept.MinLength, err = strconv.Atoi(least)
			accept.MaxLength, errMost = strconv.Atoi(most)
			if err != nil || errMost != nil || accept.MinLength < 1 || accept.MaxLength < accept.MinLength {
				return d.Errf("length: '%s' is not a length (examples: 32, 20-64)", text)
			}
			return nil
		}},
		"charset": {parse: func(d *caddyfile.Dispenser) error {
			return oneArg(d, "charset base62|base58|hex|any", (*string)(&accept.Charset))
		}},
	})
}

func parseCredentials(d *caddyfile.Dispenser, note noteFunc, ks *KeyspaceConfig) error {
	if _, err := args(d, 0, 0, "credentials { … }"); err != nil {
		return err
	}
	opts := options{"default": {parse: func(d *caddyfile.Dispenser) error {
		for _, place := range apikey.DefaultPlaces() {
			note(fmt.Sprintf("credentials[%d]", len(ks.Credentials)), d)
			ks.Credentials = append(ks.Credentials, place)
		}
		var stated bool
		return bare(d, &stated)
	}}}
	for _, kind := range apikey.PlaceKinds() {
		opts[string(kind)] = option{repeatable: true, parse: func(d *caddyfile.Dispenser) error {
			note(fmt.Sprintf("credentials[%d]", len(ks.Credentials)), d)
			low, usage, name := 1, string(kind)+" <name>", ""
			if kind == apikey.InAuthorization {
				low, usage, name = 0, "authorization [<scheme>]", "Bearer"
			}
			a, err := args(d, low, 1, usage)
			if err != nil {
				return err
			}
			if len(a) == 1 {
				name = a[0]
			}
			ks.Credentials = append(ks.Credentials, apikey.Place{Kind: kind, Name: name})
			return nil
		}}
	}
	if err := block(d, "credentials", opts); err != nil {
		return err
	}
	if len(ks.Credentials) == 0 {
		return d.Err("credentials names no place for a key: add a line such as 'header X-API-Key', or remove the block")
	}
	return nil
}

// parseScopes reads a scopes line. In `admin > deployment > free` each scope includes all those
// after it; in `read write` the scopes are independent.
func parseScopes(d *caddyfile.Dispenser) (names []string, cumulative bool, err error) {
	a, err := args(d, 1, -1, "scopes <scope>...' or 'scopes <widest> > <narrower> > ...")
	if err != nil {
		return nil, false, err
	}
	line := strings.Join(a, " ")
	if !strings.Contains(line, ">") {
		return a, false, nil
	}
	for part := range strings.SplitSeq(line, ">") {
		name := strings.Fields(part)
		if len(name) != 1 {
			return nil, false, d.Errf("scopes: '%s': write one scope on each side of each '>'", line)
		}
		names = append(names, name[0])
	}
	return names, true, nil
}

// parsePlan reads a plan's block:
//
//	rate        <n>/<period> [burst <n>] [per key|tenant|address]     repeatable
//	quota       <n>/day|month [per key|tenant|address]                repeatable
//	concurrency <n> [per key|tenant|address]                          repeatable
//	credits
//	scopes      <scope>...
//	max_keys    <n>
//	deny
//	observe
//	on_redis_down local|open|closed
//	on_leak     revoke|disable|report
//	was         <former plan>...
func parsePlan(d *caddyfile.Dispenser, note noteFunc, p *PlanConfig) error {
	a, err := args(d, 1, 1, "plan <name> { … }")
	if err != nil {
		return err
	}
	p.Name = a[0]
	opts := options{
		"scopes": {parse: func(d *caddyfile.Dispenser) (err error) {
			note("scopes", d)
			p.Scopes, err = args(d, 1, -1, "scopes <scope>...")
			return err
		}},
		"max_keys": {parse: func(d *caddyfile.Dispenser) (err error) {
			note("max_keys", d)
			p.MaxKeys, err = positive(d, "max_keys")
			return err
		}},
		"deny": {parse: func(d *caddyfile.Dispenser) error {
			note("deny", d)
			return bare(d, &p.Deny)
		}},
		"observe": {parse: func(d *caddyfile.Dispenser) error {
			note("observe", d)
			return bare(d, &p.Observe)
		}},
		"on_redis_down": {parse: func(d *caddyfile.Dispenser) error {
			note("on_redis_down", d)
			return oneArg(d, "on_redis_down local|open|closed", &p.OnRedisDown)
		}},
		"on_leak": {parse: func(d *caddyfile.Dispenser) error {
			note("on_leak", d)
			return oneArg(d, "on_leak revoke|disable|report", &p.OnLeak)
		}},
		"was": {parse: func(d *caddyfile.Dispenser) (err error) {
			note("was", d)
			p.Was, err = args(d, 1, -1, "was <former plan>...")
			return err
		}},
	}
	for _, kind := range []string{"rate", "quota", "concurrency", "credits"} {
		opts[kind] = option{repeatable: true, parse: func(d *caddyfile.Dispenser) error {
			note(fmt.Sprintf("limits[%d]", len(p.Limits)), d)
			low, high := 1, -1
			if kind == "credits" {
				low, high = 0, 0
			}
			a, err := args(d, low, high, limitUsage[kind])
			p.Limits = append(p.Limits, strings.Join(append([]string{kind}, a...), " "))
			return err
		}}
	}
	return block(d, "plan "+p.Name, opts)
}

// limitUsage is the syntax of each kind of limit, for error messages.
var limitUsage = map[string]string{
	"rate":        "rate <n>/<period> [burst <n>] [per key|tenant|address]",
	"quota":       "quota <n>/day|month [per key|tenant|address]",
	"concurrency": "concurrency <n> [per key|tenant|address]",
	"credits":     "credits",
}

func parseErrors(d *caddyfile.Dispenser, note noteFunc, c *ErrorsConfig) error {
	a, err := args(d, 0, 1, "errors [problem|detail|envelope] { … }")
	if err != nil {
		return err
	}
	note("style", d)
	if len(a) == 1 {
		c.Style = a[0]
	}
	opts := make(options)
	for _, word := range []string{"message", "code", "status"} {
		opts[word] = option{repeatable: true, parse: func(d *caddyfile.Dispenser) error {
			a, err := args(d, 2, 2, word+" <reason> <"+word+">")
			if err != nil {
				return err
			}
			if c.Refusals == nil {
				c.Refusals = make(map[string]*RefusalConfig)
			}
			r := c.Refusals[a[0]]
			if r == nil {
				r = new(RefusalConfig)
				c.Refusals[a[0]] = r
				note("refusals."+a[0], d)
			}
			note("refusals."+a[0]+"."+word, d)
			doubled := false
			switch word {
			case "message":
				doubled, r.Message = r.Message != "", a[1]
			case "code":
				doubled, r.Code = r.Code != "", a[1]
			case "status":
				doubled = r.Status != 0
				if r.Status, err = strconv.Atoi(a[1]); err != nil || r.Status == 0 {
					return d.Errf("status of %s: '%s' is not an HTTP status", a[0], a[1])
				}
			}
			if doubled {
				return d.Errf("%s of %s is stated twice", word, a[0])
			}
			return nil
		}}
	}
	return block(d, "errors", opts)
}

// parseHeaders reads `headers off` or a block; see keyspaceOptions.
func parseHeaders(d *caddyfile.Dispenser) (*HeadersConfig, error) {
	a, err := args(d, 0, 1, "headers off' or 'headers { … }")
	if err != nil {
		return nil, err
	}
	h := new(HeadersConfig)
	if len(a) == 1 {
		if a[0] != "off" {
			return nil, d.Errf("headers takes 'off' or a block, not '%s'", a[0])
		}
		h.NoX, h.NoIETF = true, true
		return h, block(d, "headers off", options{})
	}
	choice := func(to *bool, unset, set string) option {
		return option{parse: func(d *caddyfile.Dispenser) error {
			name := d.Val()
			var text string
			if err := oneArg(d, name+" "+unset+"|"+set, &text); err != nil {
				return err
			}
			if text != unset && text != set {
				return d.Errf("headers: %s is '%s' or '%s', not '%s'", name, unset, set, text)
			}
			*to = text == set
			return nil
		}}
	}
	err = block(d, "headers", options{
		"x":     choice(&h.NoX, "on", "off"),
		"ietf":  choice(&h.NoIETF, "on", "off"),
		"reset": choice(&h.ResetDelta, "unix", "delta"),
	})
	if err == nil && h.NoX && h.ResetDelta {
		return nil, d.Err("headers: 'reset delta' sets the format of X-RateLimit-Reset, and 'x off' removes that header: remove one of the two lines")
	}
	return h, err
}

// positive reads a line whose only argument is a whole number of at least 1.
func positive(d *caddyfile.Dispenser, name string) (int, error) {
	var text string
	if err := oneArg(d, name+" <n>", &text); err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return 0, d.Errf("%s: '%s' is not a whole number of at least 1", name, text)
	}
	return n, nil
}
