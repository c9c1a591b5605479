package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/keygate-dev/keygate/plugin/cluster"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/auth"
	"github.com/keygate-dev/keygate/plugin/management/leaks"
	"github.com/keygate-dev/keygate/plugin/management/webhooks"
	"github.com/keygate-dev/keygate/plugin/store/postgres"
	"github.com/keygate-dev/keygate/plugin/store/replica"
	"github.com/keygate-dev/keygate/plugin/store/reserve"
	"github.com/keygate-dev/keygate/plugin/store/sqlite"
	"github.com/keygate-dev/keygate/plugin/usage"
	"github.com/keygate-dev/keygate/plugin/webhook"
)

// Store is the interface of a store package. It serves the gateway, management and usage.
type Store interface {
	gateway.Store
	management.Store
	usage.Store
}

// OpenPrimary opens the PostgreSQL store of a target without a gateway. It waits until the server answers or ctx ends.
func OpenPrimary(ctx context.Context, t Target, log *slog.Logger) (*postgres.Store, error) {
	s, err := newPrimary(t, log)
	if err != nil {
		return nil, err
	}
	if err := s.Ping(ctx); err != nil {
		s.Close()
		return nil, fmt.Errorf("opening the store %s: %w", t.Path, err)
	}
	return s, nil
}

func newPrimary(t Target, log *slog.Logger) (*postgres.Store, error) {
	return postgres.New(postgres.Config{Address: t.Address.DSN, Listen: t.Address.Listen, Logger: log})
}

// openStore opens a target's store. It migrates an SQLite file at once. It does not wait for
// PostgreSQL, which is migrated when the server answers.
func openStore(ctx context.Context, t Target, log *slog.Logger) (Store, error) {
	if !t.Shared() {
		s, err := sqlite.Open(ctx, t.Path, log)
		if err != nil {
			return nil, err
		}
		r, err := reserve.Open(s, log)
		if err != nil {
			s.Close()
			return nil, err
		}
		return r, nil
	}
	primary, err := newPrimary(t, log)
	if err != nil || t.Replica == "" {
		return primary, err
	}
	r, err := replica.Open(ctx, replica.Options{File: t.Replica, Primary: primary, Logger: log})
	if err != nil {
		primary.Close()
		return nil, err
	}
	return r, nil
}

// open opens the store if the store is not open yet.
func (e *Engine) open(ctx context.Context) error {
	if e.opened.Load() != nil {
		return nil
	}
	if err := e.own(ctx); err != nil {
		return err
	}
	s, err := openStore(ctx, e.target, e.log)
	if err != nil {
		return fmt.Errorf("opening the store %s: %w", e.target.Path, err)
	}
	registry, _ := s.(cluster.Registry)
	e.gateway.SetStore(s, registry)
	o := &opened{store: s, at: time.Now().UTC().Truncate(time.Second)}
	o.manager = management.New(management.Config{
		Store: s, Engine: e.gateway, View: e.View, Logger: e.log,
		Listener: e.events, Signer: e.signer,
	})
	o.auth, o.leaks, o.registry = auth.New(o.manager), leaks.New(o.manager), webhooks.New(o.manager, e.webhookSettings)
	o.webhooks = webhook.New(webhook.Options{
		Store: s, Node: e.target.Node, Manager: o.manager, Settings: e.webhookSettings, Keyspaces: e.keyspaces, Logger: e.log,
	})
	e.gateway.Watch(o.webhooks)
	e.opened.Store(o)
	e.advance(Verifying)
	return nil
}

// Own makes this process the owner of the SQLite file. Apply does the same, so a program calls Own only to own the file
// before the program starts other parts. Own waits for an owner that is about to stop, see Target. Own does nothing for a
// shared store, and if the process owns the file already.
func (e *Engine) Own(ctx context.Context) error {
	e.applying.Lock()
	defer e.applying.Unlock()
	if e.State() == Closing {
		return ErrClosed
	}
	return e.own(ctx)
}

// own is Own for callers that hold the lock applying.
func (e *Engine) own(ctx context.Context) (err error) {
	if e.target.Shared() || e.owned != nil {
		return nil
	}
	if e.owned, err = sqlite.Own(ctx, e.target.Path, sqlite.OwnOptions{
		Node: e.target.Node, Wait: e.target.Wait, Exiting: e.exiting, Yield: e.yield, Log: e.log,
	}); err != nil {
		return fmt.Errorf("opening the store %s: %w", e.target.Path, err)
	}
	return nil
}

const (
	// yieldAfter is how long requests may still run when the process ends and another process waits for the SQLite file.
	yieldAfter = 2 * time.Second
	// yieldTimeout bounds how long the engine then takes to write its counts and close the file.
	yieldTimeout = 10 * time.Second
)

// yield ends all requests and closes the engine, because another process waits for the SQLite file.
func (e *Engine) yield(owned *sqlite.Ownership) {
	e.log.Warn("another process waits for the database: the requests that still run end soon", "path", e.target.Path, "after", yieldAfter.String())
	select {
	case <-owned.Released():
		return
	case <-time.After(yieldAfter):
	}
	e.gateway.Keys().EndStale(func(string) bool { return true })
	ctx, cancel := context.WithTimeout(context.Background(), yieldTimeout)
	defer cancel()
	if err := e.Close(ctx); err != nil {
		e.log.Error("the engine could not be closed cleanly for the process that waits for the database", "error", err)
	}
}

// verifyStore checks that the store and c belong together, and starts the parts that need the store.
func (e *Engine) verifyStore(ctx context.Context, c *Config) error {
	s := e.Store()
	if err := CheckPeppers(ctx, s, c.View.Hasher); err != nil {
		return err
	}
	if err := checkPlans(ctx, s, c.View); err != nil {
		return err
	}
	if err := e.gateway.Start(ctx); err != nil {
		return fmt.Errorf("starting the gateway: %w", err)
	}
	if err := e.usage.Start(ctx, s); err != nil {
		return err
	}
	if err := s.SavePeppers(ctx, c.View.Hasher.Checks()); err != nil {
		return fmt.Errorf("storing the check values of the peppers: %w", err)
	}
	return nil
}

// addressed is a store whose address can change while the store is in use.
type addressed interface {
	// Redirect changes the addresses if the new addresses lead to the same store. After an error nothing
	// has changed. Connections to the former addresses stay until SetAddress.
	Redirect(ctx context.Context, dsn, listen string) error
	// SetAddress changes the addresses without a check, and closes connections to all other addresses.
	SetAddress(dsn, listen string) error
}

var _ addressed = (*postgres.Store)(nil)

// primary returns the shared store, even if a replica is in front of it. It returns nil for a store
// whose address can't change.
func (e *Engine) primary() addressed {
	s := any(e.Store())
	if r := e.Replica(); r != nil {
		s = r.Primary()
	}
	primary, _ := s.(addressed)
	return primary
}

// moveStore changes the store's address to that of c. After an error nothing has changed. Connections of the former
// configuration stay until restore, because a later step of Apply may fail and must then leave everything unchanged.
func (e *Engine) moveStore(ctx context.Context, c *Config) error {
	if !e.target.Shared() {
		return nil
	}
	if c.Replica != e.target.Replica {
		c.Log.Warn("a reload does not change the file of the replica: restart the gateway to use the new one", "replica", e.target.Replica)
	}
	primary := e.primary()
	if primary == nil {
		return nil
	}
	if err := primary.Redirect(ctx, c.Address.DSN, c.Address.Listen); err != nil {
		return fmt.Errorf("the new address of the store can't be used, so nothing was changed: %w", err)
	}
	return nil
}

// restoreStore changes the store's address to that of c, without a check, and closes connections to
// all other addresses.
func (e *Engine) restoreStore(c *Config) error {
	if !e.target.Shared() || e.opened.Load() == nil {
		return nil
	}
	if primary := e.primary(); primary != nil {
		return primary.SetAddress(c.Address.DSN, c.Address.Listen)
	}
	return nil
}

// errRestart states what an operator must do if a reload can't change to another store: restart.
var errRestart = errors.New("a reload can't change to it: restart the gateway instead")

// conflict returns an error if the failure err must end the engine's first Apply, because another
// engine of the process serves. Otherwise it returns nil. The other engine ends only after the reload
// has succeeded. So a retry would not help, or would let an unreachable store replace one that
// answers.
func (e *Engine) conflict(err error) error {
	if !e.target.Shared() || e.active.Load() != nil {
		return nil
	}
	store, serving := e.other()
	switch {
	case !serving:
		return nil
	case errors.Is(err, cluster.ErrNameTaken):
		return fmt.Errorf("%s is the database in use, %s, under another name; %w", e.target.Path, store, errRestart)
	case errors.Is(err, replica.ErrLocked):
		return fmt.Errorf("%s as node %s: %w, since the replica is in use for %s: %w", e.target.Path, e.target.Node, errRestart, store, err)
	case e.retryable(err):
		return fmt.Errorf("%s does not answer, so nothing was changed, and %s stays in use: %w", e.target.Path, store, err)
	}
	return nil
}
