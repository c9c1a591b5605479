package storetest

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
	"github.com/keygate-dev/keygate/plugin/store"
)

// checkLedger returns a tenant's ledger. The test fails if the entries do not add up to the balance.
func checkLedger(t *testing.T, s Store, slug string) []management.LedgerEntry {
	t.Helper()
	var list []management.LedgerEntry
	view(t, s, func(tx store.Tx) (err error) {
		list, err = tx.Ledger(management.LedgerQuery{Keyspace: ks, Tenant: slug})
		return err
	})
	var sum int64
	for _, e := range list {
		if e.Kind != "shortfall" {
			sum += e.Amount
		}
		if e.Balance < 0 {
			t.Errorf("a balance below zero: %+v", e)
		}
	}
	if b := balance(t, s, slug); sum != b || b < 0 {
		t.Errorf("the ledger adds up to %d, the balance is %d", sum, b)
	}
	return list
}

func lease(t *testing.T, s Store, node, slug string, want int64) (granted, rest int64) {
	t.Helper()
	granted, rest, err := s.LeaseCredits(ctxOf(t), node, ks, slug, want)
	if err != nil {
		t.Fatal(err)
	}
	return granted, rest
}

func spend(t *testing.T, s Store, node string, at time.Time, spends ...gateway.Spend) {
	t.Helper()
	for i := range spends {
		spends[i].Keyspace = ks
	}
	if err := s.WriteFlush(ctxOf(t), node, &gateway.Flush{At: at, Spends: spends}); err != nil {
		t.Fatal(err)
	}
}

func ledger(t *testing.T, s Store) {
	withKeys(t, s, "a", 0)
	in := []*management.LedgerEntry{
		{Keyspace: ks, Tenant: "A", Kind: "add", Amount: 500, Actor: "me", At: at},
		{Keyspace: ks, Tenant: "a", Kind: "spend", Amount: -200, Reference: "job_1", At: at},
		{Keyspace: ks, Tenant: "a", Kind: "refund", Amount: 50, KeyID: "k", At: at},
	}
	for i, want := range []int64{500, 300, 350} {
		update(t, s, func(tx store.Tx) error { return tx.AddCredits(in[i]) })
		if in[i].Balance != want || in[i].Seq == 0 {
			t.Errorf("entry %d: balance %d, seq %d; want %d", i, in[i].Balance, in[i].Seq, want)
		}
		in[i].Tenant = "a"
	}
	update(t, s, func(tx store.Tx) error {
		wantErr(t, "too much", tx.AddCredits(&management.LedgerEntry{Keyspace: ks, Tenant: "a", Kind: "spend", Amount: -351, At: at}), management.ErrInsufficient)
		if err := tx.AddCredits(&management.LedgerEntry{Keyspace: ks, Tenant: "a", Kind: "add", Amount: math.MaxInt64, At: at}); err == nil {
			t.Error("a balance that overflows was accepted")
		}
		wantErr(t, "an unknown tenant", tx.AddCredits(&management.LedgerEntry{Keyspace: ks, Tenant: "b", Kind: "add", Amount: 1, At: at}), gateway.ErrNotFound)
		return nil
	})
	list := checkLedger(t, s, "a")
	same(t, "ledger", list, []*management.LedgerEntry{in[2], in[1], in[0]})
	view(t, s, func(tx store.Tx) error {
		page, err := tx.Ledger(management.LedgerQuery{Keyspace: ks, Tenant: "a", Before: in[2].Seq, Limit: 1})
		same(t, "a page", page, []*management.LedgerEntry{in[1]})
		return err
	})
	update(t, s, func(tx store.Tx) error {
		return tx.AddCredits(&management.LedgerEntry{Keyspace: ks, Tenant: "a", Kind: "spend", Amount: -350, At: at})
	})
	if b := balance(t, s, "a"); b != 0 {
		t.Errorf("balance after spending all: %d", b)
	}
}

func leases(t *testing.T, s Store) {
	withKeys(t, s, "a", 0)
	_, _, err := s.LeaseCredits(ctxOf(t), "n1", ks, "none", 1)
	wantErr(t, "an unknown tenant", err, gateway.ErrNotFound)
	for _, step := range []struct {
		name          string
		do            func()
		node          string
		want          int64
		granted, rest int64
	}{
		{"without credits", nil, "n1", 10, 0, 0},
		{"the first", func() { addCredits(t, s, "a", 100) }, "n1", 30, 30, 70},
		{"another node's", nil, "n2", 50, 50, 20},
		{"on top", nil, "n1", math.MaxInt64, 20, 0},
		{"nothing left", nil, "n2", 1, 0, 0},
		{"a need of zero", func() { addCredits(t, s, "a", 5) }, "n2", 0, 0, 5},
		{"a negative need", nil, "n2", -3, 0, 5},
		{"returned credits", func() {
			if err := s.ReturnCredits(ctxOf(t), "n2", ks, "A"); err != nil {
				t.Fatal(err)
			}
		}, "n3", 1000, 55, 0},
		{"dropped leases", func() {
			if err := s.DropLeases(ctxOf(t), "n1"); err != nil {
				t.Fatal(err)
			}
		}, "n2", 40, 40, 10},
	} {
		if step.do != nil {
			step.do()
		}
		if granted, rest := lease(t, s, step.node, "a", step.want); granted != step.granted || rest != step.rest {
			t.Errorf("%s: granted %d, rest %d; want %d, %d", step.name, granted, rest, step.granted, step.rest)
		}
	}
	// If many credits are unleased, a node gets a share of them. Otherwise the node gets only the amount
	// that it needs.
	withKeys(t, s, "rich", 0)
	addCredits(t, s, "rich", 3*gateway.FewCharges)
	for _, step := range []struct {
		node                string
		need, granted, rest int64
	}{
		{"n1", 4, 4, 380},
		{"n1", 2, 47, 333},
		{"n2", 3, 3, 330},
		{"n2", 2, 41, 289},
		{"n3", 1, 36, 253},
		{"n1", 120, 120, 133},
		{"n2", 1, 16, 117},
		{"n3", 1, 1, 116},
	} {
		if granted, rest := lease(t, s, step.node, "rich", step.need); granted != step.granted || rest != step.rest {
			t.Errorf("%s needs %d: granted %d, rest %d; want %d, %d", step.node, step.need, granted, rest, step.granted, step.rest)
		}
	}
	// Leases do not change a tenant's balance. The management API may spend credits that no node has leased.
	if b := balance(t, s, "a"); b != 105 {
		t.Errorf("balance: %d, want 105", b)
	}
	take := func(n int64) error {
		return s.Update(ctxOf(t), func(tx management.Tx) error {
			return tx.AddCredits(&management.LedgerEntry{Keyspace: ks, Tenant: "a", Kind: "spend", Amount: -n, At: at})
		})
	}
	wantErr(t, "spending leased credits", take(11), management.ErrInsufficient)
	if err := take(10); err != nil {
		t.Errorf("spending unleased credits: %v", err)
	}
	if err := s.ReturnCredits(ctxOf(t), "none", ks, "none"); err != nil {
		t.Errorf("returning nothing: %v", err)
	}
}

func spends(t *testing.T, s Store) {
	withKeys(t, s, "a", 2)
	addCredits(t, s, "a", 100)
	lease(t, s, "n1", "a", 60)
	spend(t, s, "n1", at, gateway.Spend{Tenant: "a", KeyID: "a-0", Amount: 10}, gateway.Spend{Tenant: "a", KeyID: "a-1", Amount: 5},
		gateway.Spend{Tenant: "gone", KeyID: "x", Amount: 5})
	spend(t, s, "n1", at.Add(time.Second), gateway.Spend{Tenant: "a", KeyID: "a-0", Amount: 7, Shortfall: 3})
	spend(t, s, "n1", at.Add(time.Hour), gateway.Spend{Tenant: "a", KeyID: "a-0", Amount: -2}) // The negative amount of the spend gives credits back.
	if b := balance(t, s, "a"); b != 80 {
		t.Errorf("balance: %d, want 80", b)
	}
	type row struct {
		Key, Kind string
		Amount    int64
	}
	var got []row
	for _, e := range checkLedger(t, s, "a") {
		got = append(got, row{e.KeyID, e.Kind, e.Amount})
	}
	same(t, "ledger", got, []row{{"a-0", "usage", 2}, {"a-0", "shortfall", 3}, {"a-1", "usage", -5}, {"a-0", "usage", -17}, {"", "add", 100}})
	// Node n1 has leased 60 - 22 + 2 = 40 of the balance of 80.
	if granted, rest := lease(t, s, "n2", "a", 100); granted != 40 || rest != 0 {
		t.Errorf("leased while n1 has a lease: %d, %d; want 40, 0", granted, rest)
	}
	// A refund of credits from a lease that has ended goes to the balance, and to no lease.
	spend(t, s, "n1", at.Add(2*time.Hour), gateway.Spend{Tenant: "a", KeyID: "a-0", Returned: 5})
	if b := balance(t, s, "a"); b != 85 {
		t.Errorf("balance: %d, want 85", b)
	}
	if granted, rest := lease(t, s, "n2", "a", 100); granted != 5 || rest != 0 {
		t.Errorf("leased of the returned credits: %d, %d; want 5, 0", granted, rest)
	}
	// One spend can return credits of an ended lease and charge the present lease.
	spend(t, s, "n1", at.Add(2*time.Hour), gateway.Spend{Tenant: "a", KeyID: "a-0", Amount: 5, Returned: 5})
	if granted, rest := lease(t, s, "n2", "a", 100); granted != 5 || rest != 0 {
		t.Errorf("leased of the returned credits: %d, %d; want 5, 0", granted, rest)
	}
	// A spend above the balance makes the balance zero, and the missing part is recorded as a shortfall.
	spend(t, s, "n1", at.Add(2*time.Hour), gateway.Spend{Tenant: "a", KeyID: "a-1", Amount: 95})
	if b := balance(t, s, "a"); b != 0 {
		t.Errorf("balance: %d, want 0", b)
	}
	list := checkLedger(t, s, "a")
	if list[0].Kind != "shortfall" || list[0].Amount != 10 || list[1].Amount != -85 {
		t.Errorf("shortfall: %+v", list[:2])
	}
}

func creditsConcurrent(t *testing.T, s Store) {
	withKeys(t, s, "a", 1)
	const start = 1000
	addCredits(t, s, "a", start)
	ctx := ctxOf(t)
	spent := make([]int64, 6)
	for _, err := range together(6, func(i int) error {
		node := fmt.Sprint("n", i)
		for range 12 {
			if i < 3 { // Nodes 0 to 2 spend the credits that they lease.
				granted, _, err := s.LeaseCredits(ctx, node, ks, "a", 17)
				if err != nil {
					return err
				}
				if err := s.WriteFlush(ctx, node, &gateway.Flush{At: at, Spends: []gateway.Spend{{Keyspace: ks, Tenant: "a", KeyID: "a-0", Amount: granted}}}); err != nil {
					return err
				}
				spent[i] += granted
				continue
			}
			amount := int64(-23) // Nodes from number 3 on change the balance as the management API does.
			if i == 5 {
				amount = 5
			}
			err := s.Update(ctx, func(tx management.Tx) error {
				return tx.AddCredits(&management.LedgerEntry{Keyspace: ks, Tenant: "a", Kind: "spend", Amount: amount, At: at})
			})
			switch {
			case err == nil:
				spent[i] -= amount
			case !errors.Is(err, management.ErrInsufficient):
				return err
			}
		}
		return nil
	}) {
		if err != nil {
			t.Error(err)
		}
	}
	want := int64(start)
	for _, n := range spent {
		want -= n
	}
	if b := balance(t, s, "a"); b != want || b < 0 {
		t.Errorf("balance %d, want %d", b, want)
	}
	for _, e := range checkLedger(t, s, "a") {
		if e.Kind == "shortfall" {
			t.Errorf("leased credits were spent by others: %+v", e)
		}
	}
}

func quotaCounts(t *testing.T, s Store) {
	day := func(d int) time.Time { return time.Date(2026, 3, d, 0, 0, 0, 0, time.UTC) }
	month := day(1)
	write := func(rows ...gateway.Usage) {
		t.Helper()
		if err := s.WriteFlush(ctxOf(t), "n", &gateway.Flush{At: at, Usage: rows}); err != nil {
			t.Fatal(err)
		}
	}
	row := func(c ratelimit.Calendar, start time.Time, used int64) gateway.Usage {
		return gateway.Usage{Subject: "k:default:a", Calendar: c, Start: start, Used: used}
	}
	load := func(name string, now time.Time, want ...gateway.Usage) {
		t.Helper()
		got, err := s.LoadUsage(ctxOf(t), "k:default:a", now)
		if err != nil {
			t.Fatal(err)
		}
		order := func(a, b gateway.Usage) int {
			return cmp.Or(cmp.Compare(a.Calendar, b.Calendar), b.Start.Compare(a.Start))
		}
		slices.SortFunc(got, order)
		slices.SortFunc(want, order)
		same(t, name, append([]gateway.Usage{}, got...), append([]gateway.Usage{}, want...))
	}
	load("nothing", at)
	total := gateway.Usage{Subject: "k:default:a", Calendar: ratelimit.Total, Used: 9}
	other := row(ratelimit.Day, day(4), 77)
	other.Subject = "k:default:b"
	write(row(ratelimit.Day, day(4), 5), row(ratelimit.Month, month, 6), total, other)
	load("the first", at, row(ratelimit.Day, day(4), 5), row(ratelimit.Month, month, 6), total)
	write(row(ratelimit.Day, day(4), 8), row(ratelimit.Month, month, 2)) // The count of the month was reset.
	load("replaced counts", at, row(ratelimit.Day, day(4), 8), row(ratelimit.Month, month, 2), total)
	load("at the end of the day", day(5).Add(-time.Nanosecond), row(ratelimit.Day, day(4), 8), row(ratelimit.Month, month, 2), total)
	load("the next day", day(5), row(ratelimit.Month, month, 2), total)
	load("in another zone", day(5).In(time.FixedZone("", -3600)), row(ratelimit.Month, month, 2), total)
	load("the next month", day(32), total)
	write(row(ratelimit.Day, day(5), 1))
	load("counted the next day", day(5), row(ratelimit.Day, day(5), 1), row(ratelimit.Month, month, 2), total)
	// While the clock is ahead or behind, the counts of the present periods stay.
	ahead, behind := row(ratelimit.Day, day(2000), 3), row(ratelimit.Day, day(-2000), 4)
	write(ahead, behind)
	load("after a wrong clock", day(5), ahead, row(ratelimit.Day, day(5), 1), row(ratelimit.Month, month, 2), total)
	load("while the clock is behind", day(-2000), row(ratelimit.Day, day(-2000), 4), ahead, row(ratelimit.Day, day(5), 1), row(ratelimit.Day, day(4), 8), row(ratelimit.Month, month, 2), total)
	view(t, s, func(tx store.Tx) error {
		all, err := tx.Usage("k:default:a")
		if len(all) != 6 {
			t.Errorf("counts kept: %+v", all)
		}
		return err
	})
}

func peppers(t *testing.T, s Store) {
	if got, err := s.Peppers(ctxOf(t)); err != nil || len(got) != 0 {
		t.Errorf("peppers of a new store: %v, %v", got, err)
	}
	for _, in := range []map[string]string{{"a": "1"}, nil, {"b": "2", "a": "other"}} {
		if err := s.SavePeppers(ctxOf(t), in); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.Peppers(ctxOf(t))
	if err != nil {
		t.Fatal(err)
	}
	same(t, "peppers", got, map[string]string{"a": "1", "b": "2"})
}
