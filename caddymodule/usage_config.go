package caddymodule

import (
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/keygate-dev/keygate/plugin/usage"
)

// UsageConfig is how what keys used is kept.
type UsageConfig struct {
	// Hours is for how long it is kept by hour, 2 to 3660 days; older hours are added up to days (UTC), which
	// are kept for ever. Default: 90d.
	Hours caddy.Duration `json:"hours,omitempty"`
}

const (
	minUsageHours = 2 * 24 * time.Hour
	maxUsageHours = 3660 * 24 * time.Hour
)

// compile returns for how long usage is kept by hour. c may be nil.
func (c *UsageConfig) compile() (time.Duration, error) {
	if c == nil || c.Hours == 0 {
		return usage.DefaultHours, nil
	}
	if d := time.Duration(c.Hours); d < minUsageHours || d > maxUsageHours {
		return 0, fieldErrorf("hours", "usage: hours is 2d to 3660d, not %s", d)
	}
	return time.Duration(c.Hours), nil
}

// parseUsage reads `usage { … }`; see keyspaceOptions.
func parseUsage(d *caddyfile.Dispenser, note noter) (*UsageConfig, error) {
	if _, err := args(d, 0, 0, "usage { … }"); err != nil {
		return nil, err
	}
	c := new(UsageConfig)
	return c, block(d, "usage", options{
		"hours": {parse: func(d *caddyfile.Dispenser) error {
			note("hours", d)
			return duration(d, &c.Hours)
		}},
	})
}

// usageHours says for how long a keyspace's usage is kept by hour.
func (e *engine) usageHours(keyspace string) time.Duration {
	if app := e.newest(); app != nil {
		if ks := app.keyspaces[keyspace]; ks != nil {
			return ks.usageHours
		}
	}
	return usage.DefaultHours
}
