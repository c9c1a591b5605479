package config

import (
	"encoding/json"
	"net/netip"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/keygate-dev/keygate/plugin/management/webhooks"
	"github.com/keygate-dev/keygate/plugin/webhook"
)

// WebhooksConfig configures the delivery of webhooks and the times of key.expiring and key.unused.
// Webhooks themselves are created through the management API and need the app's secret.
type WebhooksConfig struct {
	// AllowPrivate are blocks of private addresses to which webhooks may be delivered. Every user
	// who may create webhooks can then send requests to these addresses. Default: none.
	AllowPrivate PrivateBlocks `json:"allow_private,omitempty"`
	// Expiring is how long before a key's expiry the event key.expiring is sent. Default: 7d and
	// 1d.
	Expiring []caddy.Duration `json:"expiring,omitempty"`
	// Unused is the time without use after which the event key.unused is sent. Default: 90d.
	Unused caddy.Duration `json:"unused,omitempty"`
}

// PrivateBlocks are address blocks, such as 10.0.0.0/8, and single addresses. Loopback, link-local
// and metadata addresses are allowed only by a block within their own range, such as 127.0.0.0/8.
// In JSON, true stands for the private ranges of RFC 1918, RFC 4193 and RFC 6598, and false for
// none.
type PrivateBlocks []string

// UnmarshalJSON reads a list of blocks, true or false.
func (b *PrivateBlocks) UnmarshalJSON(data []byte) error {
	switch string(data) {
	case "true":
		*b = privateRanges()
		return nil
	case "false":
		*b = nil
		return nil
	}
	return json.Unmarshal(data, (*[]string)(b))
}

func privateRanges() (b PrivateBlocks) {
	for _, p := range webhooks.PrivateRanges() {
		b = append(b, p.String())
	}
	return b
}

// compile parses the blocks. A block that appears twice is an error.
func (b PrivateBlocks) compile() (out []netip.Prefix, err error) {
	for _, text := range b {
		p, err := webhooks.ParsePrivateBlock(text)
		if err != nil {
			return nil, Errorf("allow_private", "allow_private: %w", err)
		}
		if slices.Contains(out, p) {
			return nil, Errorf("allow_private", "allow_private: '%s' is stated twice", text)
		}
		out = append(out, p)
	}
	return out, nil
}

const (
	minNotice  = time.Minute
	maxNotice  = 366 * 24 * time.Hour
	maxNotices = 10
)

// Compile returns the webhook settings for package management, except for Sealer. c may be nil.
func (c *WebhooksConfig) Compile() (s webhooks.Settings, err error) {
	s.Expiring, s.Unused = webhooks.DefaultExpiring, webhooks.DefaultUnused
	s.Reach.Listens = webhook.Listens
	if c == nil {
		return s, nil
	}
	if s.Reach.Private, err = c.AllowPrivate.compile(); err != nil {
		return s, err
	}
	if len(c.Expiring) > maxNotices {
		return s, Errorf("expiring", "expiring: %d durations are stated, but at most %d are allowed", len(c.Expiring), maxNotices)
	}
	if len(c.Expiring) > 0 {
		s.Expiring = nil
	}
	for _, d := range c.Expiring {
		d := time.Duration(d)
		if d < minNotice || d > maxNotice {
			return s, Errorf("expiring", "expiring: '%s' must be between a minute and 366 days", d)
		}
		if slices.Contains(s.Expiring, d) {
			return s, Errorf("expiring", "expiring: '%s' is stated twice", d)
		}
		s.Expiring = append(s.Expiring, d)
	}
	if d := time.Duration(c.Unused); d != 0 {
		if d < time.Hour || d > 10*maxNotice {
			return s, Errorf("unused", "unused: '%s' must be between an hour and 3660 days", d)
		}
		s.Unused = d
	}
	return s, nil
}

// parseWebhooks reads `webhooks { … }`; see keyspaceOptions.
func parseWebhooks(d *caddyfile.Dispenser, note noteFunc) (*WebhooksConfig, error) {
	if _, err := args(d, 0, 0, "webhooks { … }"); err != nil {
		return nil, err
	}
	c := new(WebhooksConfig)
	return c, block(d, "webhooks", options{
		"allow_private": {parse: func(d *caddyfile.Dispenser) error {
			note("allow_private", d)
			if c.AllowPrivate = d.RemainingArgs(); len(c.AllowPrivate) == 0 {
				c.AllowPrivate = privateRanges()
			}
			return nil
		}},
		"expiring": {parse: func(d *caddyfile.Dispenser) error {
			note("expiring", d)
			a, err := args(d, 1, -1, "expiring <duration>...")
			if err != nil {
				return err
			}
			for _, text := range a {
				v, err := caddy.ParseDuration(text)
				if err != nil || v <= 0 {
					return d.Errf("expiring: '%s' is not a duration (examples: 1h, 7d)", text)
				}
				c.Expiring = append(c.Expiring, caddy.Duration(v))
			}
			return nil
		}},
		"unused": {parse: func(d *caddyfile.Dispenser) error {
			note("unused", d)
			return duration(d, &c.Unused)
		}},
	})
}

// newVault returns the vault that encrypts with the app's secret, or nil if there is no secret.
func (s Secrets) newVault() (*webhook.Vault, error) {
	if s.secret == "" {
		return nil, nil
	}
	v, err := webhook.NewVault(s.secret)
	if err != nil {
		return nil, Errorf("secret", "%w", err)
	}
	return v, nil
}
