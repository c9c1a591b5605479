package engine

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/keygate-dev/keygate/plugin/cluster"
	"github.com/keygate-dev/keygate/plugin/gateway"
)

// State is a state in the lifecycle of an Engine:
//
//	                  New
//	                   |
//	                   v
//	            +-> Opening ------------------------+
//	can't be    |      |                            |
//	opened      +------+                            |
//	                   | Apply opens the store      |
//	                   v                            |
//	            +-> Verifying ----------------------+
//	retry, or   |      |                            |
//	next Apply  +------+                            |
//	                   | a configuration belongs    |
//	                   | to the store               |
//	                   v                            |
//	                Serving ------------------------+
//	                   |  ^                         | Close
//	     a server is   |  |  every server answers,  |
//	     unreachable   |  |  the configuration is   |
//	                   v  |  verified               |
//	                Degraded -----------------------+
//	                                                |
//	                                                v
//	                                             Closing
//
// Apply never moves an engine back. It verifies a configuration with the store while the one before serves, and
// adopts it whole or not at all:
//
//   - Store and configuration belong together: Apply adopts it.
//   - They do not, or a server rejects a new address: Apply fails, and the engine goes on as before.
//   - A shared store is unreachable: Apply adopts it, and a goroutine retries until it is verified. Meanwhile a gateway
//     that serves already is Degraded, and one that does not answers requests with 503.
//
// Retire takes a configuration back. Where it was the newest one, the engine uses the one before again.
type State int32

const (
	// Opening is the state before the store is open. Requests wait briefly, and are then answered with 503.
	Opening State = iota
	// Verifying is the state in which the store is open, but not yet verified with a configuration.
	// Requests wait briefly, and are then answered with 503.
	Verifying
	// Serving is the state in which the engine checks keys.
	Serving
	// Degraded is the state Serving while the store, its primary or Redis is unreachable. The engine checks keys in memory,
	// or in the replica, for as long as the configuration's Staleness allows.
	Degraded
	// Closing is the state after a call of Close. Requests are answered with 503.
	Closing
)

// String returns the state's name in lower case.
func (s State) String() string {
	return [...]string{"opening", "verifying", "serving", "degraded", "closing"}[s]
}

// State returns the engine's state. The method does not block.
func (e *Engine) State() State {
	s := State(e.state.Load())
	if s == Serving && e.degraded() {
		return Degraded
	}
	return s
}

// degraded reports whether a server is unreachable. The gateway, the replica and the limits each find out whether their
// server answers. degraded asks them instead of keeping a state of its own.
func (e *Engine) degraded() bool {
	if stats := e.gateway.Stats(); stats.Degraded || stats.Stale {
		return true
	}
	if a := e.active.Load(); a != nil && !a.verified.Load() {
		return true
	}
	if r := e.Replica(); r != nil && r.Status().Unreachable != nil {
		return true
	}
	shared := e.Limits()
	return shared != nil && shared.Unreachable()
}

// advance moves the engine forward to a state, and reports whether the engine has reached that state.
// An engine never moves back, and never leaves Closing.
func (e *Engine) advance(to State) bool {
	for {
		from := State(e.state.Load())
		switch {
		case from == Closing:
			return to == Closing
		case from >= to:
			return true
		case e.state.CompareAndSwap(int32(from), int32(to)):
			e.log.Debug("the engine changed its state", "from", from.String(), "to", to.String())
			return true
		}
	}
}

const (
	// verifyWait bounds how long Apply waits for a shared store before it retries in the background, and
	// how long each retry waits. reloadWait is the bound while another engine serves, so that no request
	// has to wait.
	verifyWait = 5 * time.Second
	reloadWait = 30 * time.Second
	// retryPause is the time between two attempts to verify a configuration. conflictPause is the time
	// between two attempts if the store answers but does not belong to the configuration.
	retryPause    = 500 * time.Millisecond
	conflictPause = 10 * time.Second
)

// ErrClosed is the error that Apply returns after Close.
var ErrClosed = errors.New("the engine was closed")

// adopted is a configuration that Apply adopted.
type adopted struct {
	*Config
	// verified reports whether the engine has verified that the store belongs to the configuration.
	verified atomic.Bool
	// life is a context that ends when the configuration is retired, or the engine is closed.
	life context.Context
	end  context.CancelFunc
}

// Apply makes c the configuration that the engine uses. Earlier configurations stay until Retire,
// because their requests may still run. After an error the engine uses what it used before. The first
// Apply opens the store, which stays open even if that Apply fails. Apply may wait for the store and
// Redis until ctx ends. The engine serves requests meanwhile.
func (e *Engine) Apply(ctx context.Context, c *Config) error {
	e.applying.Lock()
	defer e.applying.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.life, cancel)()
	if e.State() == Closing {
		return ErrClosed
	}
	isNew := e.storeIsNew(c)
	if err := e.open(ctx); err != nil {
		return cmp.Or(e.conflict(err), err)
	}
	unverified, err := e.prepare(ctx, c)
	if err != nil {
		e.restore()
		return err
	}
	e.adopt(c, unverified)
	e.noteStore(c, isNew)
	return nil
}

// prepare verifies c with the store. It also changes the store's address, the staleness bounds and the
// limits to those of c. unverified is the reason why c could not be verified yet, or nil if c was
// verified. After an error, restore undoes the changes.
func (e *Engine) prepare(ctx context.Context, c *Config) (unverified, err error) {
	if err := e.moveStore(ctx, c); err != nil {
		return nil, err
	}
	e.gateway.SetStaleness(c.Staleness)
	wait := verifyWait
	if _, serving := e.other(); serving {
		wait = reloadWait
	}
	if unverified = e.verify(ctx, c, wait); unverified != nil {
		if err := e.conflict(unverified); err != nil {
			return nil, err
		}
		if !e.retryable(unverified) {
			return nil, unverified
		}
	}
	return unverified, e.limits.apply(ctx, c.Limits, e.active.Load() != nil)
}

// adopt makes c the newest configuration. unverified is the reason why c could not be verified with
// the store yet, or nil if c was verified.
func (e *Engine) adopt(c *Config, unverified error) {
	a := &adopted{Config: c}
	a.life, a.end = context.WithCancel(e.life)
	e.mu.Lock()
	e.configs = append(e.configs, a)
	e.activate()
	e.mu.Unlock()
	if unverified != nil {
		c.Log.Error("the store does not answer: the gateway retries until it does, and answers requests that need the store with 503", "error", unverified)
		e.background.Go(func() { e.retry(a) })
		return
	}
	e.serve(a)
}

// retry repeats the verification of a configuration until the verification succeeds or the
// configuration is retired.
func (e *Engine) retry(a *adopted) {
	logged := ""
	for wait := retryPause; ; {
		select {
		case <-time.After(wait):
		case <-a.life.Done():
			return
		}
		err := e.verify(a.life, a.Config, verifyWait)
		if a.life.Err() != nil {
			return
		}
		if err == nil {
			break
		}
		if wait = retryPause; !e.retryable(err) {
			wait = conflictPause
		}
		if text := err.Error(); text != logged {
			logged = text
			a.Log.Error("the configuration could not be verified with the store yet: requests that need the store get 503, and the gateway retries", "error", err)
		}
	}
	a.Log.Info("the store answers: keys are checked from now on")
	e.serve(a)
}

// serve marks the configuration a as verified, and starts the parts that need a verified configuration.
func (e *Engine) serve(a *adopted) {
	a.verified.Store(true)
	if !e.advance(Serving) {
		return
	}
	if a.Ready != nil {
		a.Ready()
	}
	e.opened.Load().webhooks.Start()
	e.background.Go(func() { e.migratePlans(a) })
}

// verify checks that the store and c belong together, and starts the parts that need the store. If
// the store is shared, verify takes at most the time wait.
func (e *Engine) verify(ctx context.Context, c *Config, wait time.Duration) error {
	e.verifying.Lock()
	defer e.verifying.Unlock()
	if e.target.Shared() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, wait)
		defer cancel()
	}
	return e.verifyStore(ctx, c)
}

// retryable reports whether a failed verification may succeed later without an operator. That is so if the store is
// shared, and is unreachable or in use under this node's name.
func (e *Engine) retryable(err error) bool {
	return e.target.Shared() &&
		(errors.Is(err, gateway.ErrStore) || errors.Is(err, cluster.ErrNameTaken) || errors.Is(err, context.DeadlineExceeded))
}

// Retire removes a configuration, even if Apply did not adopt it. The program retires a configuration
// that another has replaced, or with which the program failed to start after Apply. If c was the
// newest configuration, the engine uses the one before again. Requests of c may still run. If c is the
// last configuration, Retire blocks until reports of leaked keys are handled. Retire is idempotent.
func (e *Engine) Retire(c *Config) {
	e.applying.Lock()
	defer e.applying.Unlock()
	e.finishLeaks(c)
	e.mu.Lock()
	i := slices.IndexFunc(e.configs, func(a *adopted) bool { return a.Config == c })
	if i >= 0 {
		e.configs[i].end()
		e.configs = slices.Delete(e.configs, i, i+1)
		e.activate()
	}
	e.mu.Unlock()
	newest := e.active.Load()
	if newest == nil {
		return
	}
	if c.View.Newer(newest.View) {
		// The program gave up the configuration c, but may have checked requests by c while other parts
		// started. From now on the newest configuration replaces the sizes that c left in the limits.
		newest.View.Renew()
	}
	if i >= 0 {
		e.restore()
	}
}

// activate makes the last configuration in e.configs the active one. The caller holds e.mu.
func (e *Engine) activate() {
	n := len(e.configs)
	if n == 0 {
		e.active.Store(nil)
		return
	}
	e.active.Store(e.configs[n-1])
	e.follow(e.configs[n-1].Log)
}

// restore changes the store's address, the staleness bounds and the limits back to those of the active
// configuration. It does not check whether the store's address or the limits can be used.
func (e *Engine) restore() {
	a := e.active.Load()
	if a == nil {
		return
	}
	e.gateway.SetStaleness(a.Staleness)
	if err := e.restoreStore(a.Config); err != nil {
		a.Log.Error("after a failed reload, the store could not be moved back to its previous address: reload the configuration", "error", err)
	}
	if err := e.limits.restore(a.Limits); err != nil {
		a.Log.Error("after a failed reload, the previous limits could not be restored: reload the configuration", "error", err)
	}
}

// Close ends retries and deliveries, writes the counts and closes the store. It waits at most until ctx ends. Requests
// that still run are answered with 503. Close is idempotent. A second call waits for the first.
func (e *Engine) Close(ctx context.Context) error {
	if State(e.state.Swap(int32(Closing))) == Closing {
		select {
		case <-e.closed:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	defer close(e.closed)
	e.end()
	e.applying.Lock()
	defer e.applying.Unlock()
	e.background.Wait()
	return e.close(ctx)
}
