package gateway

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/keygate-dev/keygate/plugin/keytable"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

// Credits are spent from a lease: an amount of the balance in the store that only this
// node may spend. The next flush takes spent credits from the balance. So after a crash the tenant
// gains at most that much and loses nothing: an unspent lease was never taken from the balance. A
// single process leases the whole balance. Where several share the store, each leases a part of the
// rest, so that all can go on while the store is unreachable, and returns its lease every second.
// Where the rest is enough for FewCharges only, a node leases what one charge needs, so that no
// request is denied for credits that another node holds and does not spend.

const (
	// leaseTries is how often more is leased for one charge.
	leaseTries = 64
	// leaseTimeout bounds how long a request waits for a lease, and the return of one tenant's
	// lease, which requests wait for.
	leaseTimeout = 2 * time.Second
)

// lease makes charge succeed or be denied, for a tenant whose account had too few
// credits for its cost: it leases more and runs charge. One caller at a time leases for a tenant.
func (g *Gateway) lease(ctx context.Context, t *keytable.TenantState, cost int64, charge func() error) error {
	ctx, cancel := context.WithTimeout(ctx, leaseTimeout)
	defer cancel()
	if err := t.LockCredits(ctx); err != nil {
		return err
	}
	defer t.UnlockCredits()
	// The former holder of the lock may have leased enough for this request too.
	err := charge()
	if !errors.Is(err, ratelimit.ErrLease) {
		return err
	}
	for try := 0; try < leaseTries && errors.Is(err, ratelimit.ErrLease); try++ {
		if err := g.leaseMore(ctx, t, cost); err != nil {
			return err
		}
		err = charge()
	}
	return err
}

// leaseMore leases all that is left of a tenant's balance, or where other gateways may want
// some, what makes up cost at least. The caller holds the tenant's lock.
func (g *Gateway) leaseMore(ctx context.Context, t *keytable.TenantState, cost int64) error {
	account := t.Subject.Account()
	need := int64(math.MaxInt64)
	if g.freshness != nil {
		held, _ := account.Held()
		need = max(cost-held, 1)
	}
	// A balance that changes while the store is asked is asked for again.
	changes := account.Changes()
	granted, rest, err := g.store.LeaseCredits(ctx, g.node, t.ID.Keyspace, t.ID.ID, need)
	if err != nil {
		g.health.WriteFailed("leasing credits", err)
		return err
	}
	account.GrantSince(changes, granted, rest)
	return nil
}

// WithCredits runs f while nothing of a tenant's balance is leased here: everything
// spent was written back before, and requests that need credits wait until f returned.
// For what changes or reads a balance in the store. It returns f's error, or why the lease could not be given back.
func (g *Gateway) WithCredits(ctx context.Context, keyspace, tenant string, f func() error) error {
	t := g.keys.UseTenant(keyspace, tenant)
	defer g.keys.ReleaseTenant(t)
	if err := t.LockCredits(ctx); err != nil {
		return err
	}
	defer t.UnlockCredits()
	account := t.Subject.Account()
	defer account.Invalidate()
	unspent := account.Surrender()
	err := g.flushAccount(ctx, account)
	if err == nil {
		err = g.store.ReturnCredits(ctx, g.node, keyspace, tenant)
	}
	if err != nil {
		account.Grant(unspent, 0) // still ours
		g.health.WriteFailed("returning leased credits", err)
		return err
	}
	return f()
}

// unwrittenPause is how long a caller that ends a lease waits for requests that have just
// spent of it and not yet said so, and unwrittenTries how often.
const (
	unwrittenPause = 100 * time.Microsecond
	unwrittenTries = 1000
)

// flushAccount flushes until nothing that was spent from the account's former leases is
// unsettled: a request may be between spending and saying that there is something to flush.
func (g *Gateway) flushAccount(ctx context.Context, account *ratelimit.Account) error {
	for range unwrittenTries {
		if err := g.flush(ctx); err != nil {
			return err
		}
		if account.Unwritten() == 0 {
			return nil
		}
		select {
		case <-time.After(unwrittenPause):
		case <-ctx.Done():
			return fmt.Errorf("%w: settling credits: %w", ErrStore, ctx.Err())
		}
	}
	return fmt.Errorf("%w: credits that requests spent could not be settled", ErrStore)
}

// shareLeases gives back what is held of balances that other gateways may want to spend,
// and has those asked for again that had nothing left.
func (g *Gateway) shareLeases(ctx context.Context) {
	if g.freshness == nil {
		return
	}
	failed := false
	g.keys.EachTenant(func(t *keytable.TenantState) {
		account := t.Subject.OpenAccount()
		if account == nil || ctx.Err() != nil || failed {
			return
		}
		if held, _ := account.Held(); held == 0 {
			account.Invalidate()
			return
		}
		short, cancel := context.WithTimeout(ctx, leaseTimeout)
		defer cancel()
		// What can't be given back now will be later; that has been logged.
		failed = g.WithCredits(short, t.ID.Keyspace, t.ID.ID, func() error { return nil }) != nil
	})
}

// ReturnAllLeases returns all leases and forgets every balance. For a store that may not be the
// one that the credits were leased from. Blocks on the store.
func (g *Gateway) ReturnAllLeases(ctx context.Context) (err error) {
	g.keys.EachTenant(func(t *keytable.TenantState) {
		if e := g.WithCredits(ctx, t.ID.Keyspace, t.ID.ID, func() error { return nil }); e != nil && err == nil {
			err = e
		}
	})
	return err
}

// returnLeases gives back all leases, at a clean stop.
func (g *Gateway) returnLeases(ctx context.Context) error {
	var first error
	g.keys.EachTenant(func(t *keytable.TenantState) {
		if a := t.Subject.OpenAccount(); a == nil || a.Surrender() == 0 {
			return
		}
		if err := g.store.ReturnCredits(ctx, g.node, t.ID.Keyspace, t.ID.ID); err != nil && first == nil {
			first = err
		}
	})
	return first
}

// settleTimeout bounds how long settling an actual cost may wait for credits to be leased.
const settleTimeout = 2 * time.Second

// settleCost makes cost what d's request was charged.
func (g *Gateway) settleCost(d *Decision, cost int64) int64 {
	delta := cost - d.bill.Cost
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	t := d.entry.TenantState
	if delta > 0 && hasCredits(d.bill.Tenant.Lines) && t.LockCredits(ctx) == nil {
		// What is not leased here would be taken for a shortfall.
		defer t.UnlockCredits()
		for range leaseTries {
			if held, _ := t.Subject.Account().Held(); held >= delta {
				break
			}
			if g.leaseMore(ctx, t, delta) != nil {
				break // the store is unreachable: the shortfall is recorded at least
			}
			if _, rest := t.Subject.Account().Held(); rest == 0 {
				break
			}
		}
	}
	shortfall := g.limits().Adjust(ctx, d.at, &d.bill, delta)
	d.bill.Cost = cost
	g.markDirty(d.entry)
	g.markAddressDirty(&d.bill)
	return shortfall
}

func hasCredits(lines []ratelimit.Line) bool {
	for i := range lines {
		if lines[i].Policy.Kind == ratelimit.Credits {
			return true
		}
	}
	return false
}
