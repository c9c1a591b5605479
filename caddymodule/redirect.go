package caddymodule

import (
	"context"
	"errors"
	"fmt"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/store/replica"
	"github.com/keygate-dev/keygate/plugin/store/sqlstore"
)

// This file holds how a reload changes where a shared store is reached, and as whom.

// sharedStore returns the shared store itself, also where a copy stands in front of it; nil where there is none.
func (e *engine) sharedStore() *sqlstore.Store {
	s := e.store
	if r, ok := s.(*replica.Replica); ok {
		shared, _ := r.Primary().(*sqlstore.Store)
		return shared
	}
	shared, _ := s.(*sqlstore.Store)
	return shared
}

// redirect has the store reached as a says, where that is another way than before. What the
// configuration that runs has connected stays until that is stopped, so that a reload that fails
// later has changed nothing.
func (e *engine) redirect(ctx context.Context, a *App) error {
	if !e.where.shared() {
		return nil
	}
	if a.secrets.replica != e.where.replica {
		a.log.Warn("another replica than before is used from the next restart on, not by a reload", "replica", e.where.replica)
	}
	if err := e.sharedStore().Redirect(ctx, a.secrets.dsn, a.secrets.listen); err != nil {
		return fmt.Errorf("the new address of the store can't be used, so nothing was changed: %w", err)
	}
	return nil
}

// errBeside says that an engine can't begin beside the one that serves another store.
var errBeside = errors.New("a reload can't go over to it: restart the gateway instead")

// another returns where the store of another engine of this process is, and says whether there is one that judges
// keys: a reload then goes over to another store.
func (e *engine) another() (path string, going bool) {
	engines.Range(func(_, value any) bool {
		o := value.(*engine)
		if o != e && o.gateway.Ready() {
			path, going = o.where.path, true
		}
		return !going
	})
	return path, going
}

// beside returns err, which e met as it began, and what it means where another engine of this process
// serves: that one ends only when the reload has come through, so trying on would help nothing, or would
// have a store that does not answer take the place of one that does.
func (e *engine) beside(err error) error {
	if err == nil || !e.where.shared() || e.view() != nil {
		return err
	}
	path, going := e.another()
	switch {
	case !going:
		return err
	case errors.Is(err, gateway.ErrNameTaken):
		return fmt.Errorf("%s is the database in use, %s, under another name; %w", e.where.path, path, errBeside)
	case errors.Is(err, replica.ErrLocked):
		return fmt.Errorf("%s as node %s: %w, since the replica is in use for %s: %w", e.where.path, e.where.node, errBeside, path, err)
	case e.triesOn(err):
		return fmt.Errorf("%s does not answer, so nothing was changed, and %s stays in use: %w", e.where.path, path, refusedStart{err})
	}
	return err
}

// refusedStart is an error for which nothing is tried on.
type refusedStart struct{ cause error }

func (r refusedStart) Error() string { return r.cause.Error() }

// settleCost has the store reached, and trusted, as the newest configuration that runs says, and by nothing else.
func (e *engine) settle() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.settleLocked()
}

func (e *engine) settleLocked() {
	n := len(e.apps)
	if n == 0 || e.store == nil || !e.where.shared() {
		return
	}
	e.gateway.SetStaleness(e.apps[n-1].trust())
	s := e.apps[n-1].secrets
	if err := e.sharedStore().SetAddress(s.dsn, s.listen); err != nil {
		e.apps[n-1].log.Error("going on with the address of the store that is in use", "error", err)
	}
}
