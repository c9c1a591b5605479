package config

import (
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/keygate-dev/keygate/plugin/usage"
)

// UsageConfig is how what keys used is kept.
type UsageConfig struct {
	// Off counts nothing from now on; what was counted stays, and what a key's last requests were is
	// remembered as RequestsConfig says. Default: false.
	Off bool `json:"off,omitempty"`
	// Hours is for how long it is kept by hour, 2 to 3660 days; older hours are added up to days (UTC), which
	// are kept for ever. Default: 90d.
	Hours caddy.Duration `json:"hours,omitempty"`
}

const (
	minUsageHours = 2 * 24 * time.Hour
	maxUsageHours = 3660 * 24 * time.Hour
)

// Compile returns for how long usage is kept by hour. c may be nil. If it is off, existing data is kept for the default time.
func (c *UsageConfig) compile() (time.Duration, error) {
	if c == nil || c.Hours == 0 {
		return usage.DefaultHours, nil
	}
	if c.Off {
		return 0, Errorf("", "usage off counts nothing, so nothing further can be stated")
	}
	if d := time.Duration(c.Hours); d < minUsageHours || d > maxUsageHours {
		return 0, Errorf("hours", "usage: hours is 2d to 3660d, not %s", d)
	}
	return time.Duration(c.Hours), nil
}

// parseUsage reads `usage off` or a block; see keyspaceOptions.
func parseUsage(d *caddyfile.Dispenser, note noteFunc) (*UsageConfig, error) {
	a, err := args(d, 0, 1, "usage off' or 'usage { … }")
	if err != nil {
		return nil, err
	}
	c := new(UsageConfig)
	if len(a) == 1 {
		if a[0] != "off" {
			return nil, d.Errf("usage takes 'off' or a block, not '%s'", a[0])
		}
		c.Off = true
		return c, block(d, "usage off", options{})
	}
	return c, block(d, "usage", options{
		"hours": {parse: func(d *caddyfile.Dispenser) error {
			note("hours", d)
			return duration(d, &c.Hours)
		}},
	})
}
