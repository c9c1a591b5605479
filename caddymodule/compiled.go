package caddymodule

import (
	"github.com/caddyserver/caddy/v2"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/engine"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/usage"
	"github.com/keygate-dev/keygate/plugin/webhook"
)

// compiled is a Config that was checked, with its placeholders expanded. Immutable.
type compiled struct {
	secrets   secrets
	keyspaces map[string]*keyspace
	// cleaner removes the keys of all keyspaces, and management tokens, from texts.
	cleaner *apikey.Cleaner
	view    *gateway.View
	// vault encrypts under the secret; nil if there is none.
	vault *webhook.Vault
	// identity names the store: configurations with the same identity share one engine.
	identity string
	// path is the SQLite file, or the name of the PostgreSQL database.
	path string
}

// build checks and compiles the configuration. It opens nothing. Errors are fieldErrors.
func (c *Config) build(repl *caddy.Replacer) (*compiled, error) {
	out := new(compiled)
	var err error
	if out.keyspaces, err = c.compile(); err != nil {
		return nil, err
	}
	if out.secrets, err = c.expand(repl); err != nil {
		return nil, err
	}
	if out.vault, err = out.secrets.newVault(); err != nil {
		return nil, err
	}
	hasher, err := apikey.NewHasher(out.secrets.peppers...)
	if err != nil {
		return nil, fieldErrorf("peppers", "%w", err)
	}
	if hasher, err = hasher.WithForeign(out.secrets.importPeppers...); err != nil {
		return nil, fieldErrorf("import_peppers", "%w", err)
	}
	if out.identity, out.path, err = c.storeIdentity(out.secrets); err != nil {
		return nil, err
	}
	all := make([]*gateway.Keyspace, 0, len(out.keyspaces))
	grammars := make([]*apikey.Grammar, 0, len(out.keyspaces))
	for _, ks := range out.keyspaces {
		all, grammars = append(all, ks.Keyspace), append(grammars, ks.Grammar)
	}
	out.cleaner = apikey.NewCleaner(grammars...).With(management.TokenCleaner())
	out.view = gateway.NewView(hasher, all...)
	return out, nil
}

// target returns the store and the node.
func (c *compiled) target() engine.Target {
	if c.secrets.dsn == "" {
		return engine.Target{Path: c.path, Node: aloneName}
	}
	return engine.Target{Path: c.path, Address: c.secrets.address(), Replica: c.secrets.replica, Node: c.secrets.node}
}

// address returns where PostgreSQL is reached; the zero value for SQLite.
func (s secrets) address() engine.Address { return engine.Address{DSN: s.dsn, Listen: s.listen} }

// requestLog returns how a keyspace's last requests are remembered; nil: they are not.
func (c *compiled) requestLog(keyspace string) *usage.Log {
	if ks := c.keyspaces[keyspace]; ks != nil {
		return ks.requests
	}
	return nil
}

// usageOff reports whether a keyspace's usage is not counted.
func (c *compiled) usageOff(keyspace string) bool {
	ks := c.keyspaces[keyspace]
	return ks != nil && ks.usageOff
}

// webhookSettings returns the settings of a keyspace's webhooks.
func (c *compiled) webhookSettings(keyspace string) management.WebhookSettings {
	if c.keyspaces[keyspace] == nil {
		return management.WebhookSettings{}
	}
	s := c.keyspaces[keyspace].webhooks
	if c.vault != nil {
		s.Sealer = c.vault
	}
	return s
}

// headSigner returns the signer of checkpoints of the audit chain; nil if there is no secret.
func (c *compiled) headSigner() audit.Signer {
	if c.vault == nil {
		return nil
	}
	return c.vault
}
