package caddymodule

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/keygate-dev/keygate/caddymodule/version"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/store/sqlstore"
)

// This file holds what is particular to a store that several gateways share.

const (
	// aloneName names a gateway that has its store for itself.
	aloneName = "local"
	// defaultStaleness is for how long keys in memory are judged while the store is away.
	defaultStaleness = time.Hour
	// firstTry bounds how long a start waits for a shared store.
	firstTry = 5 * time.Second
	// nextTry is how soon a store that was away at the start is tried again, and refusedTry how
	// soon where it and the configuration do not belong together.
	nextTry    = 500 * time.Millisecond
	refusedTry = 10 * time.Second
)

// storePlace says where a store is, and as whom it is used.
type storePlace struct {
	// path is the SQLite file, or what names the PostgreSQL database.
	path string
	// dsn and listen are the addresses of PostgreSQL; empty for SQLite.
	dsn, listen string
	// replica is the file of this node's own copy; empty for none.
	replica string
	node    string
}

// shared says that several gateways may use the store.
func (p storePlace) shared() bool { return p.dsn != "" }

// ownName is what this process calls itself where the configuration does not say: the same
// over reloads, and another after a restart.
var ownName = sync.OnceValue(func() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "keygate"
	}
	return host + "-" + strings.ToLower(rand.Text()[:6])
})

// expandShared expands what is said of a shared store.
func (a *Config) expandShared(repl *caddy.Replacer, s *secrets) (err error) {
	if a.Store == nil || a.Store.Type != storePostgres {
		return nil
	}
	if s.dsn, err = expand(repl, "store.dsn", a.Store.DSN); err != nil {
		return err
	}
	if a.Store.Listen != "" {
		if s.listen, err = expand(repl, "store.listen", a.Store.Listen); err != nil {
			return err
		}
	}
	if a.Store.Replica != "" {
		if s.replica, err = expand(repl, "store.replica", a.Store.Replica); err != nil {
			return err
		}
		if strings.ContainsAny(s.replica, "\x00?#") {
			return fieldErrorf("store.replica", "the path of the replica holds a NUL, '?' or '#'")
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
		return fieldErrorf("node", "a node's name has at most 200 bytes, none of them spaces or control characters")
	}
	return nil
}

// sharedIdentity names a shared store and the node that uses it. Where it is reached, and as whom, is left
// out: that changes while the store stays, as with a new password or after a fail-over. Whether
// it has stayed is seen at the start; see redirect.
func sharedIdentity(s secrets) (id, path string, err error) {
	database, path, err := sqlstore.PostgresIdentity(s.dsn)
	if err != nil {
		return "", "", fieldErrorf("store", "%w", err)
	}
	if s.listen != "" {
		if _, _, err := sqlstore.PostgresIdentity(s.listen); err != nil {
			return "", "", fieldErrorf("store.listen", "%w", err)
		}
	}
	return storePostgres + ":" + database + "#" + s.node, path, nil
}

// trust is for how long keys in memory are judged while nothing is heard of the store.
func (a *Config) trust() gateway.Staleness {
	t := gateway.Staleness{Default: defaultStaleness}
	if a.Store != nil && a.Store.MaxStaleness > 0 {
		t.Default = time.Duration(a.Store.MaxStaleness)
	}
	all := a.configured()
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

// openShared opens a shared store without a gateway.
func openShared(ctx context.Context, where storePlace, log *slog.Logger) (*sqlstore.Store, error) {
	s, err := sqlstore.NewPostgres(sqlstore.PostgresConfig{Address: where.dsn, Listen: where.listen, Logger: log})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := s.Ping(ctx); err != nil {
		s.Close()
		return nil, fmt.Errorf("opening the store %s: %w", where.path, err)
	}
	return s, nil
}

// about tells the other gateways of this one.
func (e *engine) about() (program, configHash string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if n := len(e.apps); n > 0 {
		configHash = e.apps[n-1].hash()
	}
	return version.Product(), configHash
}

// attempt is prove, which does not wait long for a shared store.
func (e *engine) attempt(ctx context.Context, a *App) error {
	if e.where.shared() {
		wait := firstTry
		if _, going := e.another(); going {
			wait = startTimeout / 2 // nobody waits for it: that one serves
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, wait)
		defer cancel()
	}
	return e.prove(ctx, a)
}

// triesOn says that a start goes on beside although it met err: the store is shared, and
// away. What a store and a configuration that do not belong together refuse stays refused.
func (e *engine) triesOn(err error) bool {
	return e.where.shared() &&
		(errors.Is(err, gateway.ErrStore) || errors.Is(err, gateway.ErrNameTaken) || errors.Is(err, context.DeadlineExceeded))
}

// tryOn tries to prove a until that succeeds, or a is stopped.
func (e *engine) tryOn(a *App) {
	last := ""
	for wait := nextTry; ; {
		select {
		case <-time.After(wait):
		case <-a.ctx.Done():
			return
		}
		if !e.runs(a) {
			return
		}
		err := func() error {
			e.starting.Lock()
			defer e.starting.Unlock()
			ctx, cancel := context.WithTimeout(a.ctx, firstTry)
			defer cancel()
			return e.prove(ctx, a)
		}()
		if err == nil {
			break
		}
		if wait = nextTry; !e.triesOn(err) {
			wait = refusedTry
		}
		if text := err.Error(); text != last && !errors.Is(err, context.Canceled) {
			last = text
			a.log.Error("this configuration can't be used with the store; it is tried on", "error", err)
		}
	}
	a.log.Info("the store answers: keys are judged from now on")
	a.logReady()
	e.mu.Lock()
	webhooks, s := e.webhooks, e.store
	e.mu.Unlock()
	webhooks.Start()
	a.inherit(s)
}

// runs says whether a was started and not stopped.
func (e *engine) runs(a *App) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Contains(e.apps, a)
}

// Unwrap returns the store, for what only some have.
func (l *lazyStore) Unwrap() gateway.Store { return l.Store }

// registry returns the store's, which is shared where this is asked for.
func (l *lazyStore) registry() gateway.Registry { return l.Store.(gateway.Registry) }

// ReportNode implements gateway.Registry.
func (l *lazyStore) ReportNode(ctx context.Context, n *gateway.Node, trust gateway.Staleness) error {
	return l.registry().ReportNode(ctx, n, trust)
}

// RemoveNode implements gateway.Registry.
func (l *lazyStore) RemoveNode(ctx context.Context, name, instance string) error {
	return l.registry().RemoveNode(ctx, name, instance)
}

// Nodes implements gateway.Registry.
func (l *lazyStore) Nodes(ctx context.Context) ([]gateway.Node, time.Time, error) {
	return l.registry().Nodes(ctx)
}
