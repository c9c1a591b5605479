package turns

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var (
	alice = netip.MustParseAddr("192.0.2.1")
	bob   = netip.MustParseAddr("198.51.100.1")
	carol = netip.MustParseAddr("2001:db8::1")
)

// However many callers wait, the total cost stays within the rate, the burst and the cost of the
// running turns.
func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(Rules{Slots: 2, Rate: 0.1, Burst: 1, Waiting: 100, PerClient: 100})
		begun, spent := time.Now(), 0.0
		var mu sync.Mutex // guards spent
		for i := range 40 {
			go func() {
				done, err := q.Enter(t.Context(), nil, netip.AddrFrom4([4]byte{10, byte(i), 0, 1}), false)
				if err != nil {
					t.Error(err)
					return
				}
				time.Sleep(250 * time.Millisecond)
				mu.Lock()
				defer mu.Unlock()
				spent += 0.25
				if most := 1 + 0.1*time.Since(begun).Seconds() + 2*0.25; spent > most {
					t.Errorf("after %v %.2f were spent, more than %.2f", time.Since(begun), spent, most)
				}
				done(0.25)
			}()
			synctest.Wait()
		}
		time.Sleep(200 * time.Second)
		synctest.Wait()
		if spent != 10 {
			t.Errorf("%v were spent in all, want 10: a caller was never served", spent)
		}
	})
}

// Refunded turns cost nothing, so only Slots limits them.
func TestRefund(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(Rules{Slots: 1, Rate: 0.001, Burst: 1, Waiting: 1, PerClient: 1})
		begun := time.Now()
		for range 100 {
			done, err := q.Enter(t.Context(), nil, alice, false)
			if err != nil {
				t.Fatal(err)
			}
			done(1)
			q.Refund(1)
		}
		if time.Since(begun) != 0 {
			t.Errorf("it took %v", time.Since(begun))
		}
	})
}

// A client with many calls waits behind other clients, and calls of low priority wait behind all
// others.
func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(Rules{Slots: 1, Rate: 1, Burst: 1, Waiting: 100, PerClient: 10})
		end, err := q.Enter(t.Context(), nil, alice, false)
		if err != nil {
			t.Fatal(err)
		}
		var order []string
		want := func(name string, group any, addr netip.Addr, last bool) {
			go func() {
				done, err := q.Enter(t.Context(), group, addr, last)
				if err != nil {
					t.Error(err)
					return
				}
				order = append(order, name)
				done(0)
			}()
			synctest.Wait()
		}
		want("last", "a", carol, true)
		for i := range 3 {
			want(fmt.Sprint("alice", i), "a", alice, false)
		}
		want("bob", "a", bob, false)
		want("other group", "b", alice, false)
		end(0)
		synctest.Wait()
		if got := []string{"alice0", "other group", "bob", "alice1", "alice2", "last"}; !slices.Equal(order, got) {
			t.Errorf("the order was %q, want %q", order, got)
		}
	})
}

// The queue limits waiting callers in total and per client. A call of low priority makes room for
// another, and a canceled call leaves its place.
func TestBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(Rules{Slots: 1, Rate: 1, Burst: 1, Waiting: 3, PerClient: 2})
		end, err := q.Enter(t.Context(), nil, alice, false)
		if err != nil {
			t.Fatal(err)
		}
		results := make(map[string]error)
		enter := func(name string, ctx context.Context, addr netip.Addr, last bool) {
			go func() {
				done, err := q.Enter(ctx, nil, addr, last)
				results[name] = err
				if err == nil {
					done(0)
				}
			}()
			synctest.Wait()
		}
		enter("last", t.Context(), carol, true)
		enter("first", t.Context(), alice, false)
		ctx, cancel := context.WithCancel(t.Context())
		enter("gone", ctx, alice, false)
		enter("bob", t.Context(), bob, false) // The queue is full, so the waiting call "last" of low priority is dropped.
		if results["last"] != ErrBusy {
			t.Errorf("the dropped call got %v", results["last"])
		}
		enter("too many", t.Context(), carol, false)
		if results["too many"] != ErrBusy {
			t.Errorf("a call beyond the limit got %v", results["too many"])
		}
		cancel()
		synctest.Wait()
		enter("again", t.Context(), alice, false)
		enter("a third of one client", t.Context(), netip.MustParseAddr("192.0.2.77"), false)
		end(0)
		synctest.Wait()
		want := map[string]error{"last": ErrBusy, "too many": ErrBusy, "gone": ErrBusy, "a third of one client": ErrBusy, "first": nil, "bob": nil, "again": nil}
		for name, err := range want {
			if got, ok := results[name]; !ok || got != err {
				t.Errorf("%s got %v, want %v", name, got, err)
			}
		}
		if q.waiting != 0 || q.running != 0 || len(q.first)+len(q.last) != 0 {
			t.Errorf("left are %d waiting, %d running", q.waiting, q.running)
		}
	})
}
