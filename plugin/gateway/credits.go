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

// Credits are spent from a lease: a part of the stored balance that only this node may spend. The
// next flush subtracts the spent credits from the balance. So after a crash, the tenant keeps the
// credits spent since the last flush, and loses none: an unspent lease was never subtracted.
//
// A single process leases the whole balance. If several share the store, each leases a part of the
// rest, so that all can go on while the store is unreachable, and returns its lease every second.
// If the rest is enough for only FewCharges, a node leases the cost of one charge. So no request
// is denied because another node holds credits that it does not spend.

const (
	// leaseTries is how many times one charge leases more credits.
	leaseTries = 64
	// leaseTimeout bounds how long a request waits for a lease. It also bounds returning one
	// tenant's lease, since requests wait for that.
	leaseTimeout = 2 * time.Second
)

// lease leases credits until charge no longer returns ErrLease, and returns the result of charge.
// The tenant's account had too few credits for cost. One caller at a time leases for a tenant.
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

// leaseMore leases the whole rest of a tenant's balance or, if several gateways share the store,
// at least the credits that the account lacks for cost. The caller holds the tenant's credits
// lock.
func (g *Gateway) leaseMore(ctx context.Context, t *keytable.TenantState, cost int64) error {
	account := t.Subject.Account()
	need := int64(math.MaxInt64)
	if g.freshness != nil {
		held, _ := account.Held()
		need = max(cost-held, 1)
	}
	// If the balance changes during the call, GrantSince ignores rest, so the store is asked
	// again.
	changes := account.Changes()
	granted, rest, err := g.store.LeaseCredits(ctx, g.node, t.ID.Keyspace, t.ID.ID, need)
	if err != nil {
		g.health.WriteFailed("leasing credits", err)
		return err
	}
	account.GrantSince(changes, granted, rest)
	return nil
}

// WithCredits runs f while this process leases nothing of a tenant's balance. Before f, it writes
// the spent credits and returns the lease; requests that need credits wait until f returns. Use it
// to change or read a balance in the store. It returns f's error, or the error of returning the
// lease.
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
		account.Grant(unspent, 0) // The lease was not returned, so its credits stay in the account.
		g.health.WriteFailed("returning leased credits", err)
		return err
	}
	return f()
}

// unwrittenPause is the pause between flushes of flushAccount, and unwrittenTries their number.
const (
	unwrittenPause = 100 * time.Microsecond
	unwrittenTries = 1000
)

// flushAccount flushes until all credits spent from the account's former leases are written. A
// request may have spent credits, and not yet marked its key as dirty.
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
			return fmt.Errorf("%w: writing spent credits: %w", ErrStore, ctx.Err())
		}
	}
	return fmt.Errorf("%w: spent credits could not be written", ErrStore)
}

// shareLeases returns the leases of balances that other gateways may want to spend. It makes the
// next charge ask the store about balances that had no rest.
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
		// The next call retries a lease that could not be returned; WithCredits has reported the
		// error.
		failed = g.WithCredits(short, t.ID.Keyspace, t.ID.ID, func() error { return nil }) != nil
	})
}

// ReturnAllLeases returns all leases and forgets every balance. Use it if the store may be another
// one than that which leased the credits. It blocks on the store.
func (g *Gateway) ReturnAllLeases(ctx context.Context) (err error) {
	g.keys.EachTenant(func(t *keytable.TenantState) {
		if e := g.WithCredits(ctx, t.ID.Keyspace, t.ID.ID, func() error { return nil }); e != nil && err == nil {
			err = e
		}
	})
	return err
}

// returnLeases returns all leases at a clean stop.
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

// settleTimeout bounds how long Settle waits for a lease of credits.
const settleTimeout = 2 * time.Second

// settleCost changes the charge of d's request to cost, and returns the shortfall.
func (g *Gateway) settleCost(d *Decision, cost int64) int64 {
	delta := cost - d.bill.Cost
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	t := d.entry.TenantState
	if delta > 0 && hasCredits(d.bill.Tenant.Lines) && t.LockCredits(ctx) == nil {
		// Adjust counts credits that are not leased as shortfall, so lease them first.
		defer t.UnlockCredits()
		for range leaseTries {
			if held, _ := t.Subject.Account().Held(); held >= delta {
				break
			}
			if g.leaseMore(ctx, t, delta) != nil {
				break // Adjust will record the shortfall.
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
