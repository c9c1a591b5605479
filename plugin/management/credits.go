package management

import (
	"context"
	"errors"
	"net/http"
	"unicode/utf8"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/management/events"
)

// withSettledCredits runs f while this node leases no credits of the tenant, so that the balance that
// f reads is what the tenant has left.
func (m *Manager) withSettledCredits(ctx context.Context, a Actor, keyspace, slug string, f func() error) error {
	// WithCredits needs the slug in the stored case, of a tenant that exists.
	t, err := m.Tenant(ctx, a, keyspace, slug)
	if err != nil {
		return err
	}
	ks, err := m.Keyspace(keyspace)
	if err != nil {
		return err
	}
	return m.engine.WithCredits(ctx, ks.Name, t.Slug, f)
}

// moveBalance adds amount to a tenant's balance, appends the movement to the ledger, and sets
// t.Credits to the new balance.
func (c *Call) moveBalance(t *gateway.Tenant, kind string, amount int64, reference string) error {
	if t.Credits+amount > MaxCredits {
		var f Faults
		f.Invalid("add", "the balance would be above %d", int64(MaxCredits))
		return f.Err()
	}
	e := &LedgerEntry{
		Keyspace: c.Keyspace.Name, Tenant: t.Slug, Kind: kind, Amount: amount,
		Reference: reference, Actor: c.Actor.Name, At: c.Now,
	}
	if err := c.Tx.AddCredits(e); err != nil {
		if errors.Is(err, ErrInsufficient) {
			return Reject(http.StatusPaymentRequired, CodeCreditsExhausted,
				"The balance does not cover this: %d needed. Nothing was spent.", -amount)
		}
		return err
	}
	t.Credits = e.Balance
	if amount >= 0 {
		return nil
	}
	o, low, err := c.LowCredits(t)
	if err != nil || !low {
		return err
	}
	return c.Events.PublishOneShot(o)
}

// A balance is low if it is under lowCreditsPercent of the balance after the last top-up.
const lowCreditsPercent = 20

// LowCredits reports whether a balance is low or empty, compared with the balance after the last top-up. o is the one-shot
// event that announces this.
func (c *Call) LowCredits(t *gateway.Tenant) (o events.OneShot, low bool, err error) {
	top, err := c.TopUp(c.Keyspace.Name, t.Slug)
	if errors.Is(err, gateway.ErrNotFound) {
		return o, false, nil
	}
	if err != nil {
		return o, false, err
	}
	percent, condition := lowCreditsPercent, "credits:low"
	switch {
	case t.Credits <= 0:
		percent, condition = 0, "credits:empty"
	case float64(t.Credits)*100 >= float64(top.Balance)*lowCreditsPercent:
		return o, false, nil
	}
	return events.OneShot{
		Type: events.CreditsThreshold, Keyspace: c.Keyspace.Name, Tenant: t.Slug, At: c.Now, Subject: "tenant:" + t.Slug, Condition: condition, Ref: top.Seq,
		Data: map[string]any{"percent": percent, "balance": t.Credits, "of": top.Balance, "topped_up_at": top.At.UTC()},
	}, true, nil
}

// AddCredits adds amount to a tenant's balance and returns the new balance. amount is at least 1.
func (m *Manager) AddCredits(ctx context.Context, a Actor, keyspace, slug string, amount int64, reference string) (int64, error) {
	return m.moveCredits(ctx, a, keyspace, slug, "add", amount, reference)
}

// SpendCredits takes amount from a tenant's balance and returns the new balance. amount is at
// least 1. If the balance is smaller, SpendCredits spends nothing and returns 402
// credits_exhausted.
func (m *Manager) SpendCredits(ctx context.Context, a Actor, keyspace, slug string, amount int64, reference string) (int64, error) {
	return m.moveCredits(ctx, a, keyspace, slug, "spend", amount, reference)
}

func (m *Manager) moveCredits(ctx context.Context, a Actor, keyspace, slug, kind string, amount int64, reference string) (balance int64, err error) {
	var f Faults
	if amount < 1 || amount > MaxCredits {
		f.Invalid(kind, "must be between 1 and %d", int64(MaxCredits))
	}
	if utf8.RuneCountInString(reference) > MaxReference || !Printable(reference) {
		f.Invalid("reference", "must be at most %d characters, none of them control characters", MaxReference)
	}
	if err := f.Err(); err != nil {
		return 0, err
	}
	action, signed := "tenant.credits_added", amount
	if kind == "spend" {
		action, signed = "tenant.credits_spent", -amount
	}
	err = m.withSettledCredits(ctx, a, keyspace, slug, func() error {
		return m.Write(ctx, a, keyspace, func(c *Call) error {
			t, err := c.FindTenant(slug, true)
			if err != nil {
				return err
			}
			if err := c.Actor.RequireOperator("change credits"); err != nil {
				return err
			}
			before := audit.Fields{"credits": t.Credits}
			if err := c.moveBalance(t, kind, signed, reference); err != nil {
				return err
			}
			balance = t.Credits
			after := audit.Fields{"credits": t.Credits, "amount": signed}
			if reference != "" {
				after["reference"] = reference
			}
			// A node that found the balance empty remembers that until it applies a change of the
			// tenant.
			c.AddChange(gateway.ChangeTenant, t.Slug)
			c.Event = &audit.Event{Action: action, Target: t.Slug, Tenant: t.Slug, Before: before, After: after}
			return nil
		})
	})
	return balance, err
}

// Credits returns a tenant's balance and a page of its ledger. It first settles what this node holds leased. If the store can't
// be written, it returns the balance without what this node has spent since.
func (m *Manager) Credits(ctx context.Context, a Actor, keyspace, slug string, q PageQuery) (r CreditsRecord, err error) {
	cursors, err := m.Cursors(ctx)
	if err != nil {
		return r, err
	}
	limit, after, err := cursors.Read(ledgerCursor, q)
	if err != nil {
		return r, err
	}
	var rows []LedgerEntry
	var t *gateway.Tenant
	read := func() error {
		return m.Read(ctx, a, keyspace, func(c *Call) (err error) {
			if t, err = c.FindTenant(slug, false); err != nil {
				return err
			}
			r.Balance = t.Credits
			rows, err = c.Tx.Ledger(LedgerQuery{Keyspace: c.Keyspace.Name, Tenant: t.Slug, Before: after.Seq, Limit: limit + 1})
			return err
		})
	}
	if err = m.withSettledCredits(ctx, a, keyspace, slug, read); errors.Is(err, gateway.ErrStore) && ctx.Err() == nil {
		if failed := read(); failed == nil {
			if unwritten, known := m.engine.UnwrittenCredits(t.Keyspace, t.Slug); known {
				r.Balance, err = r.Balance-unwritten, nil
			}
		}
	}
	if err != nil {
		return r, err
	}
	page := PageOf(cursors, ledgerCursor, rows, limit, func(e LedgerEntry) Place { return Place{Seq: e.Seq} })
	r.NextCursor, r.Data = page.NextCursor, make([]LedgerRecord, len(page.Data))
	for i, e := range page.Data {
		r.Data[i] = LedgerRecord{
			At: e.At.UTC(), Kind: e.Kind, Amount: e.Amount, Balance: e.Balance,
			Key: OrNull(e.KeyID), Reference: OrNull(e.Reference), Actor: OrNull(e.Actor),
		}
	}
	return r, nil
}
