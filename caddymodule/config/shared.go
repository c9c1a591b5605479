package config

import (
	"crypto/rand"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/keygate-dev/keygate/plugin/cluster"
	"github.com/keygate-dev/keygate/plugin/store/postgres"
)

// This file holds the options for a store that several gateways share.

const (
	// aloneName is the node name of a gateway that shares its store with no other.
	aloneName = "local"
	// defaultStaleness is how long a node checks keys with its local data while the store is
	// unreachable.
	defaultStaleness = time.Hour
)

// ownName returns the node's name for a configuration without one: the host's name and random
// characters. The name stays the same over reloads and changes with a restart.
var ownName = sync.OnceValue(func() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "keygate"
	}
	return host + "-" + strings.ToLower(rand.Text()[:6])
})

// expandShared expands the placeholders in the options of a shared store.
func (a *Config) expandShared(repl *caddy.Replacer, s *Secrets) (err error) {
	if a.Store == nil || a.Store.Type != StorePostgres {
		return nil
	}
	if s.DSN, err = expand(repl, "store.dsn", a.Store.DSN); err != nil {
		return err
	}
	if a.Store.Listen != "" {
		if s.listen, err = expand(repl, "store.listen", a.Store.Listen); err != nil {
			return err
		}
	}
	if a.Store.Replica != "" {
		if s.Replica, err = expand(repl, "store.replica", a.Store.Replica); err != nil {
			return err
		}
		if strings.ContainsAny(s.Replica, "\x00?#") {
			return Errorf("store.replica", "the path of the replica holds a NUL, '?' or '#'")
		}
	}
	if a.Node == "" {
		s.node = ownName()
		return nil
	}
	if s.node, err = expand(repl, "node", a.Node); err != nil {
		return err
	}
	if len(s.node) > 200 || strings.ContainsFunc(s.node, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return Errorf("node", "a node's name has at most 200 bytes, none of them spaces or control characters")
	}
	return nil
}

// sharedIdentity returns an id for the shared store and this node, and the database's name as
// path. The id excludes the server's address and user, since a new password or a fail-over changes
// them while the store stays the same. The engine verifies at the start that the store is the
// same.
func sharedIdentity(s Secrets) (id, path string, err error) {
	database, path, err := postgres.Identity(s.DSN)
	if err != nil {
		return "", "", Errorf("store", "%w", err)
	}
	if s.listen != "" {
		if _, _, err := postgres.Identity(s.listen); err != nil {
			return "", "", Errorf("store.listen", "%w", err)
		}
	}
	return StorePostgres + ":" + database + "#" + s.node, path, nil
}

// Staleness returns how long each keyspace's keys are checked with local data while the store is
// unreachable.
func (a *Config) Staleness() cluster.Staleness {
	t := cluster.Staleness{Default: defaultStaleness}
	if a.Store != nil && a.Store.MaxStaleness > 0 {
		t.Default = time.Duration(a.Store.MaxStaleness)
	}
	all := a.Configured()
	for name, ks := range all {
		if ks.MaxStaleness > 0 {
			if t.Keyspaces == nil {
				t.Keyspaces = make(map[string]time.Duration, len(all))
			}
			t.Keyspaces[name] = time.Duration(ks.MaxStaleness)
		}
	}
	if len(t.Keyspaces) == len(all) {
		// Every keyspace has its own duration, so the default applies to none. The longest one
		// becomes the default: after it, this gateway rejects all keys.
		t.Default = 0
		t.Default = t.Longest()
	}
	return t
}
