package clients

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

var epoch = time.Date(2024, 2, 10, 12, 0, 0, 0, time.UTC)

// policies parses a list of rates.
func policies(t testing.TB, text string) []*ratelimit.Policy {
	t.Helper()
	ps, err := ratelimit.ParseRates(text)
	if err != nil {
		t.Fatal(err)
	}
	return ps
}

func quota(t testing.TB, text string) *ratelimit.Policy {
	t.Helper()
	p, err := ratelimit.ParseQuota(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// billOf returns a bill with the policies bound to its key.
func billOf(s *ratelimit.Subject, policies ...*ratelimit.Policy) *ratelimit.Bill {
	return &ratelimit.Bill{Cost: 1, Key: ratelimit.Party{Subject: s, Lines: s.Bind(1, ratelimit.FromPlan, policies)}}
}

func charge(t testing.TB, b *ratelimit.Bill, now time.Time) {
	t.Helper()
	if err := ratelimit.NewLocal().Charge(context.Background(), now, b, &ratelimit.Outcome{}); err != nil {
		t.Fatal(err)
	}
}

func v4(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}

func TestFailures(t *testing.T) {
	f := NewFailures(policies(t, "100/m burst 10")[0], 1000)
	a := netip.MustParseAddr("192.0.2.1")
	for i := range 10 {
		if ok, retry := f.Fail(epoch, a); !ok || retry != 0 {
			t.Fatal(i, ok, retry)
		}
	}
	for _, now := range []time.Time{epoch, epoch.Add(-time.Hour)} {
		if ok, retry := f.Fail(now, a); ok || retry != epoch.Sub(now)+600*time.Millisecond {
			t.Fatal(ok, retry)
		}
	}
	if ok, _ := f.Fail(epoch, netip.MustParseAddr("::ffff:192.0.2.1")); ok {
		t.Error("the mapped address is another client")
	}
	if ok, _ := f.Fail(epoch, netip.MustParseAddr("192.0.2.2")); !ok {
		t.Error("another address is denied")
	}
	if ok, _ := f.Fail(epoch.Add(600*time.Millisecond-1), a); ok {
		t.Error("allowed before its retry")
	}
	if ok, _ := f.Fail(epoch.Add(600*time.Millisecond), a); !ok {
		t.Error("denied after its retry")
	}
	for i := range 10 {
		if ok, _ := f.Fail(epoch, netip.MustParseAddr("2001:db8::").Next()); !ok {
			t.Error(i)
		}
	}
	if ok, _ := f.Fail(epoch, netip.MustParseAddr("2001:db8::ffff:1%eth0")); ok {
		t.Error("another address of the /64 is another client")
	}
	if ok, _ := f.Fail(epoch, netip.MustParseAddr("2001:db8:0:1::1")); !ok {
		t.Error("another /64 is denied")
	}
	f.Fail(epoch, netip.Addr{})
	later := epoch.Add(time.Minute)
	if n := testing.AllocsPerRun(100, func() { f.Fail(later, a) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	f.Sweep(epoch.Add(time.Hour))
	if f.Len() != 0 {
		t.Errorf("%d left", f.Len())
	}
}

// A flood of addresses neither grows the table nor evicts the clients with many failures.
func TestFailuresFlood(t *testing.T) {
	f := NewFailures(policies(t, "100/h")[0], 3200)
	offender := v4(1)
	now := epoch
	for range 100 {
		f.Fail(now, offender)
	}
	for i := range uint32(100_000) {
		f.Fail(now, v4(1000+i))
		if f.Len() > 3200 {
			t.Fatal(f.Len())
		}
		if i == 50_000 {
			// Clients whose buckets are full by now are evicted first.
			now = now.Add(40 * time.Second)
		}
	}
	if ok, _ := f.Fail(now.Add(-40*time.Second), offender); ok {
		// The bucket gained one token in 40 s.
		if ok, _ = f.Fail(now, offender); ok {
			t.Error("the flood evicted the offender")
		}
	}
	if one := NewFailures(policies(t, "1/366d burst 1000000000000")[0], 0); one.depth <= 0 || one.perShard != 1 {
		t.Errorf("%+v", one.depth)
	}
}

func TestAddresses(t *testing.T) {
	a := newAddresses(32 * 4)
	addr := netip.MustParseAddr("2001:db8::1")
	s := a.Get("p:free", addr)
	if s.ID() != "a:p:free:2001:db8::/64" || a.Get("p:free", v4(0x01020304)).ID() != "a:p:free:1.2.3.4" {
		t.Error(s.ID())
	}
	if a.Get("p:free", netip.MustParseAddr("2001:db8::2")) != s || a.Get("p:pro", addr) == s {
		t.Error("not one subject for each owner and /64")
	}
	if n := testing.AllocsPerRun(100, func() { a.Get("p:free", addr) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	b := billOf(s, policies(t, "2/m")...)
	a.Sweep(epoch)
	charge(t, b, epoch)
	a.Sweep(epoch.Add(time.Hour))
	if s.Dropped() || a.Get("p:free", addr) != s {
		t.Fatal("dropped while a request runs")
	}
	ratelimit.NewLocal().Release(b)
	a.Sweep(epoch)
	a.Sweep(epoch)
	if a.Get("p:free", addr) != s {
		t.Fatal("dropped with a bucket that is not full")
	}
	a.Sweep(epoch.Add(time.Hour))
	if s.Dropped() {
		t.Fatal("dropped right after Get")
	}
	a.Sweep(epoch.Add(time.Hour))
	if err := ratelimit.NewLocal().Charge(context.Background(), epoch.Add(time.Hour), b, &ratelimit.Outcome{}); !errors.Is(err, ratelimit.ErrDropped) {
		t.Errorf("a dropped subject can be charged: %v", err)
	}
	if a.Len() != 0 || a.Get("p:free", addr) == s {
		t.Errorf("%d left", a.Len())
	}
	// A flood of addresses does not grow the table beyond its bound, nor evict a subject with a
	// running request.
	kept := a.Get("p:free", addr)
	running := billOf(kept, policies(t, "2/m")...)
	charge(t, running, epoch)
	for i := range uint32(10_000) {
		b := billOf(a.Get("p:free", v4(i)), policies(t, "2/m")...)
		charge(t, b, epoch)
		ratelimit.NewLocal().Release(b)
	}
	if n := a.Len(); n > 32*4+32 || a.Get("p:free", addr) != kept {
		t.Errorf("%d subjects", n)
	}
	n := 0
	for range a.All {
		n++
	}
	if n != a.Len() {
		t.Errorf("All gave %d of %d", n, a.Len())
	}
}

// An address whose count the store keeps no row of stays in the table until the period ends.
func TestUnstoredAddress(t *testing.T) {
	a := newAddresses(shards)
	now := time.Date(2024, 2, 28, 23, 0, 0, 0, time.UTC)
	s := a.Get("p:default:free", v4(1))
	b := billOf(s, quota(t, "10/day"))
	s.UsageLoaded()
	charge(t, b, now)
	ratelimit.NewLocal().Release(b)
	counts := s.Unflushed(nil)
	s.Unstored(ratelimit.Day, counts[0].Start)
	s.Flushed(counts)
	charge(t, b, now)
	ratelimit.NewLocal().Release(b)
	if c := s.Unflushed(nil); len(c) != 0 {
		t.Errorf("the unstored count would be written again: %v", c)
	}
	for range 3 {
		a.Sweep(now.Add(59 * time.Minute))
	}
	if a.Get("p:default:free", v4(1)) != s {
		t.Fatal("dropped before the period ended")
	}
	for range 3 {
		a.Sweep(now.Add(61 * time.Minute))
	}
	if !s.Dropped() {
		t.Error("kept after the period ended")
	}
}

// While the store accepts no counts, a flood of addresses does not grow the table without bound.
func TestUnflushedAddresses(t *testing.T) {
	a := newAddresses(shards * 4)
	for i := range uint32(5000) {
		s := a.Get("p:default:free", v4(i))
		b := billOf(s, quota(t, "10/day"))
		s.UsageLoaded()
		charge(t, b, epoch)
		ratelimit.NewLocal().Release(b)
	}
	if n := a.Len(); n > shards*8 {
		t.Errorf("%d subjects", n)
	}
}

func TestOwnerOf(t *testing.T) {
	a := NewAddresses()
	for _, owner := range []string{"p:default:free", "t:x:acme"} {
		for _, addr := range []string{"1.2.3.4", "2001:db8::1", "::"} {
			if got, ok := OwnerOf(a.Get(owner, netip.MustParseAddr(addr)).ID()); got != owner || !ok {
				t.Errorf("%s of %s: %q, %v", addr, owner, got, ok)
			}
		}
	}
	for _, id := range []string{"k:default:key_1", "t:default:acme", "a:p:x", ""} {
		if got, ok := OwnerOf(id); ok {
			t.Errorf("%s: %q", id, got)
		}
	}
}

func BenchmarkFailures(b *testing.B) {
	f, now := NewFailures(policies(b, "100/m")[0], 100_000), time.Now()
	b.Run("known", func(b *testing.B) {
		a := netip.MustParseAddr("192.0.2.1")
		b.ReportAllocs()
		for b.Loop() {
			f.Fail(now, a)
		}
	})
	b.Run("flood", func(b *testing.B) {
		b.ReportAllocs()
		for i := uint32(0); b.Loop(); i++ {
			f.Fail(now, v4(i))
		}
	})
}
