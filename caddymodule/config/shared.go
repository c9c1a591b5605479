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

// This file handles a store that several gateways share.

const (
	// aloneName names a gateway that has its store for itself.
	aloneName = "local"
	// defaultStaleness is how long keys in memory are accepted while the store is unreachable.
	defaultStaleness = time.Hour
)

// ownName is what this process calls itself where the configuration does not say: the same
// over reloads, and another after a restart.
var ownName = sync.OnceValue(func() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "keygate"
	}
	return host + "-" + strings.ToLower(rand.Text()[:6])
})

// expandShared expands the options of a shared store.
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

// sharedIdentity names a shared store and the node that uses it. Where it is reached, and as whom, is left
// out: that changes while the store stays, as with a new password or after a fail-over. Whether
// it has stayed is seen at the start; see redirect.
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

// Staleness returns how long keys in memory are accepted while the store does not answer.
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
		// There is none that the default is for: this gateway is through when the last of these is.
		t.Default = 0
		t.Default = t.Longest()
	}
	return t
}
