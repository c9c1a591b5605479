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

// Credits are spent from a lease: a part of the stored balance that only this node may spend. The next flush subtracts the
// spent credits from the balance. After a crash, the tenant keeps the credits that were spent since the last flush. No
// credits are lost, because an unspent lease was never subtracted.
//
// A node that uses the store alone leases the whole balance. Nodes that share a store each lease a part of the unleased
// credits, so that every node can serve requests while the store is unreachable. Each node returns its lease every second.
// If the unleased credits are enough for only FewCharges charges, a node leases the cost of one charge. So a request is
// never denied because another node holds credits that it does not spend.

const (
	// leaseTries bounds how often one charge asks the store for more credits.
	leaseTries = 64
	// leaseTimeout bounds how long a request waits for a lease. It also bounds the return of one tenant's lease, because
	// requests of the tenant wait until the lease is returned.
	leaseTimeout = 2 * time.Second
)

// lease calls charge, and leases more credits for the tenant until charge returns something other than ErrLease; it
// returns that result. cost is the number of credits that the tenant's account lacked. Only one caller at a time leases
// for a tenant.
func (g *Gateway) lease(ctx context.Context, t *keytable.TenantState, cost int64, charge func() error) error {
	ctx, cancel := context.WithTimeout(ctx, leaseTimeout)
	defer cancel()
	if err := t.LockCredits(ctx); err != nil {
		return err
	}
	defer t.UnlockCredits()
	// Another request that held the lock before may have leased enough credits for this request too.
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

// leaseMore leases credits for the tenant. A node that uses the store alone leases the whole unleased balance. A node that
// shares the store leases at least the credits that the account lacks for cost. The caller holds the tenant's credits
// lock.
func (g *Gateway) leaseMore(ctx context.Context, t *keytable.TenantState, cost int64) error {
	account := t.Subject.Account()
	need := int64(math.MaxInt64)
	if g.freshness != nil {
		held, _ := account.Held()
		need = max(cost-held, 1)
	}
	// If the balance changes during the call, GrantSince ignores the reported rest. Then a later charge asks the store again.
	changes := account.Changes()
	granted, rest, err := g.store.LeaseCredits(ctx, g.node, t.ID.Keyspace, t.ID.ID, need)
	if err != nil {
		g.health.WriteFailed("leasing credits", err)
		return err
	}
	account.GrantSince(changes, granted, rest)
	return nil
}

// WithCredits runs f while this process leases no part of a tenant's balance. Before f runs, WithCredits writes the spent
// credits and returns the lease. Requests that need credits wait until f returns. Use WithCredits to change or read a
// balance in the store. It returns the error of f, or the error of returning the lease.
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
		account.Grant(unspent, 0) // The lease could not be returned, so its unspent credits stay in the account.
		g.health.WriteFailed("returning leased credits", err)
		return err
	}
	return f()
}

// UnwrittenCredits returns how many credits this process has spent from a tenant's balance that the store does not know yet.
// known is always true.
func (g *Gateway) UnwrittenCredits(keyspace, tenant string) (n int64, known bool) {
	if t := g.keys.FindTenant(keyspace, tenant); t != nil {
		if account := t.Subject.OpenAccount(); account != nil {
			n = account.Unwritten()
		}
	}
	return n, true
}

// unwrittenPause is the pause between two flushes of flushAccount. unwrittenTries is the largest number of these flushes.
const (
	unwrittenPause = 100 * time.Microsecond
	unwrittenTries = 1000
)

// flushAccount flushes until all credits that were spent from former leases of the account are written. One flush may not
// be enough, because a request may have spent credits without having marked its key as dirty yet.
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

// shareLeases returns leases of balances that other gateways may want to spend. For a balance without unleased credits, it
// makes the next charge ask the store again.
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
		// A lease that could not be returned is retried by the next call of shareLeases. WithCredits has logged the error.
		failed = g.WithCredits(short, t.ID.Keyspace, t.ID.ID, func() error { return nil }) != nil
	})
}

// ReturnAllLeases returns all leases to the store and forgets every balance. Call it if the store may be another one than
// the store that leased the credits. It blocks on the store.
func (g *Gateway) ReturnAllLeases(ctx context.Context) (err error) {
	g.keys.EachTenant(func(t *keytable.TenantState) {
		if e := g.WithCredits(ctx, t.ID.Keyspace, t.ID.ID, func() error { return nil }); e != nil && err == nil {
			err = e
		}
	})
	return err
}

// returnLeases returns all leases of credits when the gateway stops.
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
		// Adjust counts credits that are not leased as a shortfall. So the missing credits are leased before Adjust is called.
		defer t.UnlockCredits()
		for range leaseTries {
			if held, _ := t.Subject.Account().Held(); held >= delta {
				break
			}
			if g.leaseMore(ctx, t, delta) != nil {
				break // The balance is empty. Adjust will record the missing credits as a shortfall.
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
