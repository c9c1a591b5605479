package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/store"
)

// together runs f(0) to f(n-1) concurrently and returns their errors.
func together(n int, f func(i int) error) []error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			errs[i] = f(i)
		})
	}
	close(start)
	wg.Wait()
	return errs
}

func changes(t *testing.T, s Store) {
	if seq, err := s.LastSeq(ctxOf(t)); seq != 0 || err != nil {
		t.Errorf("newest change of an empty store: %d, %v", seq, err)
	}
	update(t, s, func(tx store.Tx) error {
		for i := range 5 {
			kind := gateway.ChangeKey
			if i == 4 {
				kind = gateway.ChangeTenant
			}
			if seq, err := tx.Change(kind, ks, fmt.Sprint("id", i)); err != nil || seq != int64(i+1) {
				return fmt.Errorf("change %d is %d, %w", i+1, seq, err)
			}
		}
		return nil
	})
	// A change that is rolled back leaves no gap in the change numbers.
	_ = s.Update(ctxOf(t), func(tx management.Tx) error {
		if _, err := tx.Change(gateway.ChangeKey, ks, "never"); err != nil {
			t.Error(err)
		}
		return errors.New("no")
	})
	update(t, s, func(tx store.Tx) error { _, err := tx.Change(gateway.ChangeKey, "other", "last"); return err })
	list, err := s.Changes(ctxOf(t), 3, 2)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "two changes after 3", unmarked(t, list), []gateway.Change{
		{Seq: 4, Kind: gateway.ChangeKey, Keyspace: ks, ID: "id3"}, {Seq: 5, Kind: gateway.ChangeTenant, Keyspace: ks, ID: "id4"}})
	list, err = s.Changes(ctxOf(t), 5, 100)
	list = unmarked(t, list)
	if err != nil || len(list) != 1 || list[0] != (gateway.Change{Seq: 6, Kind: gateway.ChangeKey, Keyspace: "other", ID: "last"}) {
		t.Errorf("after 5: %+v, %v", list, err)
	}
	if seq, err := s.LastSeq(ctxOf(t)); seq != 6 || err != nil {
		t.Errorf("newest change: %d, %v; want 6", seq, err)
	}
}

// unmarked returns changes with their marks removed. The test fails for a change without a mark.
func unmarked(t *testing.T, list []gateway.Change) []gateway.Change {
	t.Helper()
	for i := range list {
		if list[i].Mark == 0 {
			t.Errorf("change %d has no mark", list[i].Seq)
		}
		list[i].Mark = 0
	}
	return list
}

func changesConcurrent(t *testing.T, s Store) {
	const writers, each = 8, 10
	ctx, cancel := context.WithCancel(ctxOf(t))
	followed := make(chan []int64, 1)
	// A goroutine reads changes while other goroutines write. No change may appear with a lower number than
	// a change that was already read.
	go func() {
		var seqs []int64
		for len(seqs) < writers*each && ctx.Err() == nil {
			after := int64(0)
			if len(seqs) > 0 {
				after = seqs[len(seqs)-1]
			}
			list, err := s.Changes(ctx, after, 7)
			if err != nil {
				break
			}
			for _, c := range list {
				seqs = append(seqs, c.Seq)
			}
		}
		followed <- seqs
	}()
	for _, err := range together(writers, func(w int) error {
		for i := range each {
			if err := s.Update(ctx, func(tx management.Tx) error {
				_, err := tx.Change(gateway.ChangeKey, ks, fmt.Sprint(w, "-", i))
				return err
			}); err != nil {
				return err
			}
		}
		return nil
	}) {
		if err != nil {
			t.Error(err)
		}
	}
	got := <-followed
	cancel()
	var want []int64
	for i := range writers * each {
		want = append(want, int64(i+1))
	}
	if !slices.Equal(got, want) {
		t.Errorf("followed %v", got)
	}
}

func wait(t *testing.T, s Store) {
	ctx := ctxOf(t)
	if err := s.Wait(ctx); err != nil { // The first call of Wait may return without a change.
		t.Fatal(err)
	}
	update(t, s, func(tx store.Tx) error { _, err := tx.Change(gateway.ChangeKey, ks, "a"); return err })
	if err := s.Wait(ctx); err != nil {
		t.Fatalf("a change before the call: %v", err)
	}
	woken := make(chan error, 1)
	var seen []gateway.Change
	go func() {
		for {
			if err := s.Wait(ctx); err != nil {
				woken <- err
				return
			}
			list, err := s.Changes(ctx, 1, 10)
			if err != nil || len(list) > 0 {
				seen = list
				woken <- err
				return
			}
		}
	}()
	update(t, s, func(tx store.Tx) error { _, err := tx.Change(gateway.ChangeKey, ks, "b"); return err })
	if err := <-woken; err != nil || len(seen) != 1 {
		t.Errorf("a change during the call: %v, %v", seen, err)
	}
	short, cancel := context.WithCancel(ctx)
	cancel()
	for range 100 { // Wait may return nil for a few more calls, but must block at last.
		if err := s.Wait(short); err != nil {
			wantErr(t, "ended", err, context.Canceled)
			return
		}
	}
	t.Error("Wait keeps returning nil although its context has ended")
}

func updateAtomic(t *testing.T, s Store) {
	errOwn := errors.New("no")
	err := s.Update(ctxOf(t), func(tx management.Tx) error {
		return firstError(tx.InsertTenant(tenant("a")), tx.InsertKey(key("k", "a")), errOwn)
	})
	if !errors.Is(err, errOwn) {
		t.Errorf("Update returned %v, want f's own error", err)
	}
	if errors.Is(err, gateway.ErrStore) {
		t.Error("the error that f returned is reported as an error of the store")
	}
	err = s.View(ctxOf(t), func(tx management.Tx) error { _, err := tx.Tenant(ks, "a"); return err })
	wantErr(t, "an uncommitted row", err, gateway.ErrNotFound)
	if err := s.View(ctxOf(t), func(management.Tx) error { return errOwn }); !errors.Is(err, errOwn) {
		t.Errorf("View returned %v, want f's own error", err)
	}
	err = s.View(ctxOf(t), func(tx management.Tx) error { return tx.InsertTenant(tenant("a")) })
	wantErr(t, "writing in a View", err, gateway.ErrStore)
	update(t, s, func(tx store.Tx) error { return tx.InsertTenant(tenant("a")) })
}

func updatePanic(t *testing.T, s Store) {
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		_ = s.Update(ctxOf(t), func(tx management.Tx) error {
			if err := tx.InsertTenant(tenant("a")); err != nil {
				t.Error(err)
			}
			panic("in f")
		})
	}()
	// After a panic in an update, its row does not exist, and another update can write.
	update(t, s, func(tx store.Tx) error { return tx.InsertTenant(tenant("a")) })
}

func updateCancelled(t *testing.T, s Store) {
	for i := range 5 {
		ctx, cancel := context.WithCancel(ctxOf(t))
		err := s.Update(ctx, func(tx management.Tx) error {
			if err := tx.InsertTenant(tenant(fmt.Sprint("t", i))); err != nil {
				return err
			}
			cancel()
			if i%2 == 0 {
				return nil // The context has ended before the commit, so the update must fail.
			}
			for {
				if _, err := tx.Tenants(management.TenantQuery{Keyspace: ks, Limit: 1}); err != nil {
					return err
				}
			}
		})
		wantErr(t, "cancelled", err, gateway.ErrStore)
		wantErr(t, "cancelled", err, context.Canceled)
		cancel()
		view(t, s, func(tx store.Tx) error {
			list, err := tx.Tenants(management.TenantQuery{Keyspace: ks, Limit: 10})
			if len(list) > 0 {
				t.Errorf("rows left: %s", asJSON(t, list))
			}
			return err
		})
	}
	done, cancel := context.WithCancel(ctxOf(t))
	cancel()
	_, err := s.Lookup(done, ks, []apikey.Candidate{candidate("x")})
	wantErr(t, "Lookup with an ended context", err, gateway.ErrStore)
	wantErr(t, "Lookup with an ended context", err, context.Canceled)
	late, cancel := context.WithDeadline(ctxOf(t), time.Now().Add(-time.Second))
	defer cancel()
	wantErr(t, "past its deadline", s.Update(late, func(management.Tx) error { return nil }), context.DeadlineExceeded)
	update(t, s, func(tx store.Tx) error { return tx.InsertTenant(tenant("after")) })
}

func viewSnapshot(t *testing.T, s Store) {
	withKeys(t, s, "a", 1)
	view(t, s, func(tx store.Tx) error {
		before, err := tx.Tenants(management.TenantQuery{Keyspace: ks})
		if err != nil {
			return err
		}
		withKeys(t, s, "b", 2)
		after, err := tx.Tenants(management.TenantQuery{Keyspace: ks})
		if len(before) != 1 || len(after) != 1 {
			t.Errorf("a view saw %d tenants, then %d; want 1 both times", len(before), len(after))
		}
		if _, err := tx.Key(ks, "b-0"); !errors.Is(err, gateway.ErrNotFound) {
			t.Errorf("a later key in an earlier view: %v", err)
		}
		return err
	})
	view(t, s, func(tx store.Tx) error { _, err := tx.Key(ks, "b-0"); return err })
}

func capUnderLoad(t *testing.T, s Store) {
	const attempts, limit = 60, 10
	update(t, s, func(tx store.Tx) error { return tx.InsertTenant(tenant("a")) })
	full := errors.New("the cap is reached")
	ctx := ctxOf(t)
	created := 0
	for _, err := range together(attempts, func(i int) error {
		return s.Update(ctx, func(tx management.Tx) error {
			if _, err := tx.LockTenant(ks, "a"); err != nil {
				return err
			}
			n, err := tx.ActiveKeys(ks, "a", at)
			if err != nil {
				return err
			}
			if n >= limit {
				return full
			}
			return tx.InsertKey(key(fmt.Sprint("k", i), "a"))
		})
	}) {
		switch {
		case err == nil:
			created++
		case !errors.Is(err, full):
			t.Error(err)
		}
	}
	view(t, s, func(tx store.Tx) error {
		n, err := tx.ActiveKeys(ks, "a", at)
		if n != limit || created != limit {
			t.Errorf("%d keys, %d created; want %d", n, created, limit)
		}
		return err
	})
}

func closed(t *testing.T, s Store) {
	withKeys(t, s, "a", 1)
	ended := make(chan error, 1)
	ctx := ctxOf(t)
	go func() {
		for {
			if err := s.Wait(ctx); err != nil {
				ended <- err
				return
			}
		}
	}()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "a waiting Wait", <-ended, gateway.ErrStore)
	for call, err := range map[string]error{
		"Update": s.Update(ctx, func(management.Tx) error { return nil }),
		"View":   s.View(ctx, func(management.Tx) error { return nil }),
		"Ping":   s.Ping(ctx),
		"Wait":   s.Wait(ctx),
		"Lookup": func() error {
			_, err := s.Lookup(ctx, ks, []apikey.Candidate{candidate("a-0")})
			return err
		}(),
		"Digests":    s.Digests(ctx, func(string, []byte) bool { return true }),
		"WriteFlush": s.WriteFlush(ctx, "n", &gateway.Flush{At: at, Usage: []gateway.Usage{{Subject: "x", Calendar: 1, Start: at, Used: 1}}}),
	} {
		wantErr(t, call+" after Close", err, gateway.ErrStore)
	}
	if err := s.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
}
