package config

import (
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/keygate-dev/keygate/plugin/usage"
)

// RequestsConfig configures the log of each key's last requests. Of each request it keeps only
// time, method, path, status, reason, latency and address.
type RequestsConfig struct {
	// Off keeps no requests. Default: false.
	Off bool `json:"off,omitempty"`
	// Keep is the number of requests kept per key, 1 to 1,000. Default: 100.
	Keep int `json:"keep,omitempty"`
	// For is how long requests are kept, 1m to 31d. Default: 24h.
	For caddy.Duration `json:"for,omitempty"`
	// Address is the part of the client's address that is kept: "full", "prefix" (the IPv4 /24 or
	// IPv6 /48) or "off". Default: "full".
	Address string `json:"address,omitempty"`
	// Path is the part of the path that is kept, never with the query: "full", or "route", the
	// pattern of the matching cost line, else the first segment. Default: "full".
	Path string `json:"path,omitempty"`
}

// Bounds and defaults of RequestsConfig.
const (
	defaultRequestsKeep = 100
	maxRequestsKeep     = 1000
	defaultRequestsFor  = 24 * time.Hour
	minRequestsFor      = time.Minute
	maxRequestsFor      = 31 * 24 * time.Hour
)

// compile checks c, which may be nil. It returns nil if no requests are kept. clean removes keys
// from the logged texts.
func (c *RequestsConfig) compile(clean func(string) string) (*usage.Log, error) {
	log := &usage.Log{Keep: defaultRequestsKeep, For: defaultRequestsFor, Clean: clean}
	if c == nil {
		return log, nil
	}
	if c.Off {
		if *c != (RequestsConfig{Off: true}) {
			return nil, Errorf("", "requests off keeps nothing: remove the other options of requests")
		}
		return nil, nil
	}
	if c.Keep != 0 {
		if c.Keep < 1 || c.Keep > maxRequestsKeep {
			return nil, Errorf("keep", "requests: keep is 1 to %d, not %d; 'requests off' keeps none", maxRequestsKeep, c.Keep)
		}
		log.Keep = c.Keep
	}
	if c.For != 0 {
		if log.For = time.Duration(c.For); log.For < minRequestsFor || log.For > maxRequestsFor {
			return nil, Errorf("for", "requests: for is 1m to 31d, not %s", log.For)
		}
	}
	switch c.Address {
	case "", "full":
	case "prefix":
		log.Address = usage.AddressPrefix
	case "off":
		log.Address = usage.AddressOff
	default:
		return nil, Errorf("address", "requests: address is full, prefix or off, not '%s'", c.Address)
	}
	switch c.Path {
	case "", "full":
	case "route":
		log.Route = true
	default:
		return nil, Errorf("path", "requests: path is full or route, not '%s'", c.Path)
	}
	return log, nil
}

// parseRequests reads `requests off` or a block; see keyspaceOptions.
func parseRequests(d *caddyfile.Dispenser, note noteFunc) (*RequestsConfig, error) {
	a, err := args(d, 0, 1, "requests off' or 'requests { … }")
	if err != nil {
		return nil, err
	}
	c := new(RequestsConfig)
	if len(a) == 1 {
		if a[0] != "off" {
			return nil, d.Errf("requests takes 'off' or a block, not '%s'", a[0])
		}
		c.Off = true
		return c, block(d, "requests off", options{})
	}
	return c, block(d, "requests", options{
		"keep": {parse: func(d *caddyfile.Dispenser) (err error) {
			note("keep", d)
			c.Keep, err = positive(d, "keep")
			return err
		}},
		"for": {parse: func(d *caddyfile.Dispenser) error {
			note("for", d)
			var text string
			if err := oneArg(d, "for <duration>", &text); err != nil {
				return err
			}
			duration, err := caddy.ParseDuration(text)
			if err != nil || duration <= 0 {
				return d.Errf("for: '%s' is not a duration (examples: 24h, 7d)", text)
			}
			c.For = caddy.Duration(duration)
			return nil
		}},
		"address": {parse: func(d *caddyfile.Dispenser) error {
			note("address", d)
			return oneArg(d, "address full|prefix|off", &c.Address)
		}},
		"path": {parse: func(d *caddyfile.Dispenser) error {
			note("path", d)
			return oneArg(d, "path full|route", &c.Path)
		}},
	})
}
