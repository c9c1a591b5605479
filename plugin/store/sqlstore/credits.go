package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
)

// LeaseTTL is how long a node's leases of credits last after the node's last write. After LeaseTTL the
// node counts as dead, and other nodes may lease its credits.
const LeaseTTL = 10 * time.Second

// The ledger of credits has one row per key and hour for the kinds usage and shortfall. Other kinds have
// one row per entry.
const (
	kindUsage     = "usage"
	kindShortfall = "shortfall"
)

// errOverflow is returned if a sum of credits does not fit into its database column.
var errOverflow = errors.New("the sum of credits is too large")

// balance returns the row number and the balance of credits of a tenant, and locks the tenant's row.
func (t *Tx) balance(keyspace, tenant string) (num, credits int64, err error) {
	err = t.Row(`SELECT num, credits FROM tenants WHERE keyspace = $1 AND folded = $2`+t.lockRow,
		[]any{keyspace, Fold(tenant)}, &num, &credits)
	return num, credits, err
}

// leased returns how much of a tenant's balance nodes have leased. It includes the lease of the given
// node even if that lease has ended, because the node may not know that and still spend the credits.
func (t *Tx) leased(num int64, node string) (n int64, err error) {
	err = t.Row(`SELECT coalesce(sum(l.amount), 0) FROM leases l JOIN nodes n ON n.name = l.node
		WHERE l.tenant_num = $1 AND (l.node = $2 OR n.lease_until > $3)`, []any{num, node, t.Now.UnixMicro()}, &n)
	return n, err
}

// renew extends a node's leases of credits.
func (t *Tx) renew(node string) error {
	_, err := t.Exec(`INSERT INTO nodes (name, lease_until) VALUES ($1, $2)
		ON CONFLICT (name) DO UPDATE SET lease_until = excluded.lease_until`, node, t.Now.Add(LeaseTTL).UnixMicro())
	return err
}

// LeaseCredits implements gateway.Store. It returns gateway.ErrNotFound if the tenant does not exist.
// A node's leases end LeaseTTL after the node's last LeaseCredits or WriteFlush.
func (s *Store) LeaseCredits(ctx context.Context, node, keyspace, tenant string, need int64) (granted, rest int64, err error) {
	err = s.Write(ctx, "leasing credits", func(t *Tx) error {
		num, credits, err := t.balance(keyspace, tenant)
		if err != nil {
			return err
		}
		leased, err := t.leased(num, node)
		if err != nil {
			return err
		}
		free := max(credits-leased, 0)
		if granted = min(max(need, 0), free); need > 0 && free/gateway.FewCharges >= need {
			granted = free / gateway.LeaseShare
		}
		rest = free - granted
		if granted == 0 {
			return nil
		}
		if _, err := t.Exec(`INSERT INTO leases (tenant_num, node, amount) VALUES ($1, $2, $3)
			ON CONFLICT (tenant_num, node) DO UPDATE SET amount = leases.amount + excluded.amount`, num, node, granted); err != nil {
			return err
		}
		return t.renew(node)
	})
	if err != nil {
		return 0, 0, err
	}
	return granted, rest, nil
}

// ReturnCredits implements gateway.Store.
func (s *Store) ReturnCredits(ctx context.Context, node, keyspace, tenant string) error {
	return s.Write(ctx, "returning credits", func(t *Tx) error {
		_, err := t.Exec(`DELETE FROM leases WHERE node = $1
			AND tenant_num = (SELECT num FROM tenants WHERE keyspace = $2 AND folded = $3)`, node, keyspace, Fold(tenant))
		return err
	})
}

// DropLeases implements gateway.Store.
func (s *Store) DropLeases(ctx context.Context, node string) error {
	return s.Write(ctx, "dropping leases", func(t *Tx) error {
		_, err := t.Exec(`DELETE FROM leases WHERE node = $1`, node)
		return err
	})
}

// AddCredits implements management.Tx.
func (t *Tx) AddCredits(e *management.LedgerEntry) error {
	num, credits, err := t.balance(e.Keyspace, e.Tenant)
	if err != nil {
		return err
	}
	if e.Amount > math.MaxInt64-credits {
		return fmt.Errorf("adding %d credits: %w", e.Amount, errOverflow)
	}
	balance := credits + e.Amount
	if e.Amount < 0 {
		leased, err := t.leased(num, "")
		if err != nil {
			return err
		}
		if balance < leased {
			return management.ErrInsufficient
		}
	}
	if _, err := t.Exec(`UPDATE tenants SET credits = $2 WHERE num = $1`, num, balance); err != nil {
		return err
	}
	at := e.At
	if at.IsZero() {
		at = t.Now
	}
	err = t.Row(`INSERT INTO ledger (tenant_num, key_id, kind, amount, balance, reference, actor, at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING seq`,
		[]any{num, e.KeyID, e.Kind, e.Amount, balance, e.Reference, e.Actor, at.UnixMicro()}, &e.Seq)
	if err == nil {
		e.Balance = balance
	}
	return err
}

// Ledger implements management.Tx.
func (t *Tx) Ledger(q management.LedgerQuery) ([]management.LedgerEntry, error) {
	var w where
	w.and("t.keyspace = " + w.arg(q.Keyspace))
	w.and("t.folded = " + w.arg(Fold(q.Tenant)))
	if q.Before != 0 {
		w.and("l.seq < " + w.arg(q.Before))
	}
	var out []management.LedgerEntry
	err := t.Rows(`SELECT l.seq, t.keyspace, t.slug, l.key_id, l.kind, l.amount, l.balance, l.reference, l.actor, l.at
		FROM tenants t JOIN ledger l ON l.tenant_num = t.num`+w.text+` ORDER BY l.seq DESC`+w.limit(q.Limit), w.args,
		func(rows *sql.Rows) error {
			var e management.LedgerEntry
			err := rows.Scan(&e.Seq, &e.Keyspace, &e.Tenant, &e.KeyID, &e.Kind, &e.Amount, &e.Balance, &e.Reference, &e.Actor, TimeInto(&e.At))
			out = append(out, e)
			return err
		})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// recordSpend subtracts what a node spent from the tenant's balance and from the node's lease. A
// negative Amount is a refund, which recordSpend adds to the balance and to the lease. It adds Returned
// to the balance only. If the balance is too small, the missing part is recorded as a shortfall. If the
// tenant no longer exists, recordSpend does nothing.
func (t *Tx) recordSpend(node string, at time.Time, s *gateway.Spend) error {
	num, credits, err := t.balance(s.Keyspace, s.Tenant)
	if errors.Is(err, gateway.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	// The amount taken is at most the balance. A refund must not make the balance overflow.
	due := s.Amount - s.Returned
	taken := max(min(due, credits), credits-math.MaxInt64)
	credits -= taken
	hour := at.UTC().Truncate(time.Hour)
	if taken != 0 {
		if _, err := t.Exec(`UPDATE tenants SET credits = $2 WHERE num = $1`, num, credits); err != nil {
			return err
		}
		if err := t.accumulate(num, s.KeyID, kindUsage, hour, at, -taken, credits); err != nil {
			return err
		}
	}
	if missing := s.Shortfall + (due - taken); missing > 0 {
		if err := t.accumulate(num, s.KeyID, kindShortfall, hour, at, missing, credits); err != nil {
			return err
		}
	}
	switch {
	case s.Amount > 0:
		_, err = t.Exec(`UPDATE leases SET amount = CASE WHEN amount > $3 THEN amount - $3 ELSE 0 END
			WHERE tenant_num = $1 AND node = $2`, num, node, s.Amount)
	case s.Amount < 0:
		_, err = t.Exec(`INSERT INTO leases (tenant_num, node, amount) VALUES ($1, $2, $3)
			ON CONFLICT (tenant_num, node) DO UPDATE SET amount = leases.amount + excluded.amount`, num, node, -s.Amount)
	}
	return err
}

// accumulate adds an amount to a key's ledger row of the hour.
func (t *Tx) accumulate(num int64, keyID, kind string, hour, at time.Time, amount, balance int64) error {
	_, err := t.Exec(`INSERT INTO ledger (tenant_num, key_id, kind, hour, amount, balance, reference, actor, at)
		VALUES ($1, $2, $3, $4, $5, $6, '', '', $7)
		ON CONFLICT (tenant_num, key_id, kind, hour) WHERE hour IS NOT NULL
		DO UPDATE SET amount = ledger.amount + excluded.amount, balance = excluded.balance, at = excluded.at`,
		num, keyID, kind, hour.UnixMicro(), amount, balance, at.UnixMicro())
	return err
}
