package config

import (
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/keygate-dev/keygate/plugin/usage"
)

// UsageConfig configures the usage statistics of a keyspace's keys.
type UsageConfig struct {
	// Off stops counting. Existing counts stay, and the log of last requests (RequestsConfig) is
	// not affected. Default: false.
	Off bool `json:"off,omitempty"`
	// Hours is how long usage is kept by hour, 2 to 3660 days. Older hours are summed into days
	// (UTC), which are kept forever. Default: 90d.
	Hours caddy.Duration `json:"hours,omitempty"`
}

const (
	minUsageHours = 2 * 24 * time.Hour
	maxUsageHours = 3660 * 24 * time.Hour
)

// compile returns how long usage is kept by hour. c may be nil. If counting is off, existing hours
// are kept for the default time.
func (c *UsageConfig) compile() (time.Duration, error) {
	if c == nil || c.Hours == 0 {
		return usage.DefaultHours, nil
	}
	if c.Off {
		return 0, Errorf("", "usage off counts nothing: remove hours")
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
