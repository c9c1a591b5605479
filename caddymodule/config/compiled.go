package config

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"

	"github.com/caddyserver/caddy/v2"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/engine"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/management/webhooks"
	"github.com/keygate-dev/keygate/plugin/usage"
	"github.com/keygate-dev/keygate/plugin/webhook"
)

// Compiled is a Config that was checked, with its placeholders expanded. Immutable.
type Compiled struct {
	// Config is the configuration before compilation, with its placeholders.
	Config    *Config
	Secrets   Secrets
	Keyspaces map[string]*Keyspace
	// Cleaner removes keys of all keyspaces, and management tokens, from texts such as log lines.
	Cleaner *apikey.Cleaner
	View    *gateway.View
	// vault encrypts with the configuration's secret; nil if there is no secret.
	vault *webhook.Vault
	// Identity names the store: configurations with the same identity share one engine.
	Identity string
	// Path is the SQLite file, or the name of the PostgreSQL database.
	Path string
}

// Build checks and compiles the configuration. It opens nothing. An error names the field that is wrong.
func (c *Config) Build(repl *caddy.Replacer) (*Compiled, error) {
	out := &Compiled{Config: c}
	var err error
	if out.Keyspaces, err = c.compile(); err != nil {
		return nil, err
	}
	if out.Secrets, err = c.expand(repl); err != nil {
		return nil, err
	}
	if out.vault, err = out.Secrets.newVault(); err != nil {
		return nil, err
	}
	hasher, err := apikey.NewHasher(out.Secrets.peppers...)
	if err != nil {
		return nil, Errorf("peppers", "%w", err)
	}
	if hasher, err = hasher.WithImportPeppers(out.Secrets.importPeppers...); err != nil {
		return nil, Errorf("import_peppers", "%w", err)
	}
	if out.Identity, out.Path, err = c.storeIdentity(out.Secrets); err != nil {
		return nil, err
	}
	all := make([]*gateway.Keyspace, 0, len(out.Keyspaces))
	grammars := make([]*apikey.Grammar, 0, len(out.Keyspaces))
	for _, ks := range out.Keyspaces {
		all, grammars = append(all, ks.Keyspace), append(grammars, ks.Grammar)
	}
	out.Cleaner = apikey.NewCleaner(grammars...).With(management.TokenCleaner())
	out.View = gateway.NewView(hasher, all...)
	return out, nil
}

// Target returns the store and the node name for the engine.
func (c *Compiled) Target() engine.Target {
	if c.Secrets.DSN == "" {
		return engine.Target{Path: c.Path, Wait: c.Secrets.storeWait, Node: aloneName}
	}
	return engine.Target{Path: c.Path, Address: c.Secrets.Address(), Replica: c.Secrets.Replica, Node: c.Secrets.node}
}

// Address returns the addresses of PostgreSQL, or the zero value for SQLite.
func (s Secrets) Address() engine.Address { return engine.Address{DSN: s.DSN, Listen: s.listen} }

// RequestLog returns how a keyspace's last requests are recorded, or nil if they are not recorded.
func (c *Compiled) RequestLog(keyspace string) *usage.Log {
	if ks := c.Keyspaces[keyspace]; ks != nil {
		return ks.Requests
	}
	return nil
}

// UsageOff reports whether a keyspace's usage is not counted.
func (c *Compiled) UsageOff(keyspace string) bool {
	ks := c.Keyspaces[keyspace]
	return ks != nil && ks.UsageOff
}

// WebhookSettings returns the settings of a keyspace's webhooks.
func (c *Compiled) WebhookSettings(keyspace string) webhooks.Settings {
	if c.Keyspaces[keyspace] == nil {
		return webhooks.Settings{}
	}
	s := c.Keyspaces[keyspace].webhooks
	if c.vault != nil {
		s.Sealer = c.vault
	}
	return s
}

// CheckpointSigner returns the signer of checkpoints of the audit chain; nil if there is no secret.
func (c *Compiled) CheckpointSigner() audit.Signer {
	if c.vault == nil {
		return nil
	}
	return c.vault
}

// LimitsKind returns "local" or "redis": where rates, quotas and concurrency are counted.
func (c *Config) LimitsKind() string {
	if c.Limits != nil && c.Limits.Type != "" {
		return c.Limits.Type
	}
	return limitsLocal
}

// ConfigHash returns a short hash that shows whether gateways have the same configuration. It
// covers the configuration as saved, with placeholders for secrets. Settings that differ between
// gateways, the node's name and the replica's file, are excluded.
func (c *Config) ConfigHash() string {
	b, err := json.Marshal(c)
	if err != nil {
		return ""
	}
	var fields map[string]any
	if err := json.Unmarshal(b, &fields); err != nil {
		return ""
	}
	delete(fields, "node")
	if store, ok := fields["store"].(map[string]any); ok {
		delete(store, "replica")
	}
	if b, err = json.Marshal(fields); err != nil {
		return ""
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// AppName is the app's module ID and the global option's name.
const AppName = "keygate"

// FindApp returns the keygate app of the configuration of ctx, for handlers that need it. It
// returns an error if the app is not configured.
func FindApp[T any](ctx caddy.Context) (app T, err error) {
	a, err := ctx.AppIfConfigured(AppName)
	if errors.Is(err, caddy.ErrNotConfigured) {
		return app, errors.New("the app keygate is not configured: add the global option keygate { … }")
	}
	if err != nil {
		return app, err
	}
	return a.(T), nil
}
