package management_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
)

// altered is a store whose audit rows are changed by a function when they are read.
type altered struct {
	management.Store
	rows func([]audit.Row) []audit.Row
}

type alteredTx struct {
	management.Tx
	rows func([]audit.Row) []audit.Row
}

func (s altered) View(ctx context.Context, f func(management.Tx) error) error {
	return s.Store.View(ctx, func(tx management.Tx) error { return f(alteredTx{tx, s.rows}) })
}

func (tx alteredTx) Audit(q audit.Query) ([]audit.Row, error) {
	rows, err := tx.Tx.Audit(q)
	return tx.rows(rows), err
}

func TestChainNotices(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "free")
	k := w.key("acme")
	testkit.Must[management.IssuedKey](t)(w.RotateKey(ctx, ada, "", k.ID, 0))
	testkit.Must[management.Receipt](t)(w.RevokeKey(ctx, ada, "", k.ID))
	at := func(i int, f func(*audit.Row)) func([]audit.Row) []audit.Row {
		return func(rows []audit.Row) []audit.Row { f(&rows[i]); return rows }
	}
	for name, c := range map[string]struct {
		alter   func([]audit.Row) []audit.Row
		problem string
	}{
		"nothing": {at(0, func(*audit.Row) {}), ""},
		"erased":  {at(1, func(r *audit.Row) { r.Personal, r.Salt = nil, nil }), ""},
		"action":  {at(1, func(r *audit.Row) { r.Action = "key.deleted" }), "was changed"},
		"time":    {at(1, func(r *audit.Row) { r.At = r.At.Add(time.Microsecond) }), "was changed"},
		"before":  {at(2, func(r *audit.Row) { r.Before = nil }), "was changed"},
		"shifted": {at(2, func(r *audit.Row) { r.Target, r.Tenant = r.Target+r.Tenant, "" }), "was changed"},
		"actor":   {at(3, func(r *audit.Row) { r.Personal = []byte(`{"actor":"eve"}`) }), "actor, address or text"},
		"rehashed": {at(1, func(r *audit.Row) {
			r.PersonalHash[0]++
		}), "was changed"},
		"missing": {func(r []audit.Row) []audit.Row { return append(r[:1:1], r[2:]...) }, "are gone"},
		"swapped": {func(r []audit.Row) []audit.Row { r[1], r[2] = r[2], r[1]; return r }, "are gone"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := management.VerifyAudit(ctx, altered{w.store, c.alter})
			if err != nil {
				t.Fatal(err)
			}
			if r.Intact != (c.problem == "") || !strings.Contains(strings.Join(r.Problems, "\n"), c.problem) {
				t.Errorf("report %+v, want %q", r, c.problem)
			}
		})
	}
}

// TestChainHoldsNoPerson proves that names and free text are outside of the audit chain, and that
// no secret is in any row.
func TestChainHoldsNoPerson(t *testing.T) {
	w := newFixture(t)
	testkit.Must[management.TenantRecord](t)(w.CreateTenant(ctx, ada, "", "acme", tenantFields{Name: some("Ada Lovelace")}))
	k := w.key("acme", func(f *keyFields) { f.Description = some("of Ada Lovelace") })
	testkit.Must[management.KeyRecord](t)(w.UpdateKey(ctx, ada, "", k.ID, keyFields{Name: some("lovelace"), Rate: some("5/m")}, nil))
	err := w.store.View(ctx, func(tx management.Tx) error {
		rows, err := tx.Audit(audit.Query{Ascending: true, Limit: 10})
		for _, r := range rows {
			chained := strings.ToLower(string(r.Before) + string(r.After) + r.Target)
			if strings.Contains(chained, "lovelace") || strings.Contains(chained, "ada") || strings.Contains(chained, "192.0.2.1") {
				t.Errorf("the chain of %s holds %s", r.Action, chained)
			}
			if strings.Contains(chained+string(r.Personal), k.Key[12:]) {
				t.Errorf("%s holds the key", r.Action)
			}
		}
		if len(rows) != 3 {
			t.Errorf("%d events, want 3", len(rows))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	e := testkit.Must[management.Page[audit.Record]](t)(w.Audit(ctx, ada, "", management.AuditFilter{Key: k.ID})).Data[0]
	if e.After["name"] != "lovelace" || e.After["rate"] != "5/m" || e.Before["name"] != "ci" {
		t.Errorf("shown %+v", e)
	}
}

// failing is an engine whose Apply fails, so that changes are stored but not applied on this node.
type failing struct{ management.Engine }

func (failing) Apply(context.Context, []gateway.Change) error { return errors.New("no") }

func TestStoreAndEngineFailures(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "free")
	m := management.New(management.Config{Store: w.store, Engine: failing{w.gw}, View: w.current})
	if _, err := m.CreateTenant(ctx, ada, "", "b", tenantFields{}); !errors.Is(err, gateway.ErrStore) {
		t.Errorf("error %v, want ErrStore", err)
	}
	down := management.New(management.Config{Store: w.store, Engine: w.gw, View: func() *gateway.View { return nil }})
	if _, err := down.Tenant(ctx, ada, "", "acme"); !errors.Is(err, gateway.ErrStore) {
		t.Errorf("error %v, want ErrStore", err)
	}
	if err := w.store.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.CreateTenant(ctx, ada, "", "c", tenantFields{}); !errors.Is(err, gateway.ErrStore) {
		t.Errorf("error %v, want ErrStore", err)
	}
	if _, err := w.Tenant(ctx, ada, "", "acme"); !errors.Is(err, gateway.ErrStore) {
		t.Errorf("error %v, want ErrStore", err)
	}
}

func TestParseDuration(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"90d": 90 * 24 * time.Hour, "24h": 24 * time.Hour, "30s": 30 * time.Second, "1d12h": 36 * time.Hour, "0s": 0, "1h30m": 90 * time.Minute,
	} {
		if got, err := management.ParseDuration(s); err != nil || got != want {
			t.Errorf("%q is %v, %v; want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "d", "-1d", "-5s", "5", "1w", "1d-2h", "99999999d", "1.5d", "1dd", "soon"} {
		if got, err := management.ParseDuration(s); err == nil {
			t.Errorf("%q is %v, want an error", s, got)
		}
	}
}
