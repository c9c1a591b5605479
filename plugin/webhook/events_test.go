package webhook_test

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/events"
	"github.com/keygate-dev/keygate/plugin/management/webhooks"
	"github.com/keygate-dev/keygate/plugin/webhook"
)

// often makes the Service look for expiring and unused keys every 10 ms.
func often(o *webhook.Options) {
	o.Scan, o.ScanUnused = 10*time.Millisecond, 10*time.Millisecond
}

func expires(in time.Duration) func(*management.KeyFields) {
	return func(f *management.KeyFields) { f.ExpiresAt = management.Some(time.Now().Add(in)) }
}

func TestExpiryEvents(t *testing.T) {
	const day = 24 * time.Hour
	w := newFixture(t)
	e := newEndpoint(t, nil)
	w.tenant("acme", "pro")
	hook := w.hook(e.URL, "", "key.expiring", "key.expired")
	long := w.key("acme", expires(30*day))
	short := w.key("acme", expires(3*day))
	ended := w.key("acme", expires(30*day))
	w.key("acme")
	if _, err := w.RevokeKey(ctx, ada, "", ended.ID); err != nil {
		t.Fatal(err)
	}
	w.start(often)
	received := map[string][]string{}
	count := func(n int) {
		t.Helper()
		testkit.Eventually(w.t, "the next events", func() bool { return len(e.got()) >= n })
		w.scanned()
		received = map[string][]string{}
		for _, p := range e.got() {
			id := p.field(t, "key_id").(string)
			received[id] = append(received[id], p.Type)
		}
		if stored := len(w.deliveries(hook.ID)); stored != n {
			t.Fatalf("%d events, want %d: %v", stored, n, received)
		}
	}
	count(0)
	w.clock.Advance(2*day + time.Hour) // The key named short gets the warning of one day.
	count(1)
	w.clock.Advance(day) // short has expired
	count(2)
	w.clock.Advance(20*day + time.Hour) // long gets the warning of seven days
	count(3)
	w.stop()
	w.start(often) // a restart repeats no event
	count(3)
	w.clock.Advance(6 * day)
	count(4)
	w.clock.Advance(2 * day)
	count(5)
	want := map[string]int{long.ID: 3, short.ID: 2}
	for id, n := range want {
		if len(received[id]) != n {
			t.Errorf("events of %s: %v, want %d", id, received[id], n)
		}
	}
}

// A webhook gets no event of a key that expired before the webhook was created.
func TestNoEventsFromBeforeTheWebhook(t *testing.T) {
	w := newFixture(t)
	e := newEndpoint(t, nil)
	w.tenant("acme", "pro")
	w.key("acme", expires(time.Hour))
	w.clock.Advance(2 * time.Hour)
	w.hook(e.URL, "", "key.expired")
	next := w.key("acme", func(f *management.KeyFields) { f.ExpiresAt = management.Some(w.clock.Now().Add(time.Hour)) })
	w.start(often)
	w.clock.Advance(2 * time.Hour)
	testkit.Eventually(w.t, "the second expiry", func() bool { return len(e.got()) > 0 })
	for _, p := range e.got() {
		if p.field(t, "key_id") != next.ID {
			t.Errorf("got %s", p.body)
		}
	}
}

func TestUnusedKeyEvents(t *testing.T) {
	w := newFixture(t)
	e := newEndpoint(t, nil)
	w.tenant("acme", "pro")
	hook := w.hook(e.URL, "", "key.unused")
	idle, used := w.key("acme"), w.key("acme")
	w.clock.Advance(60 * 24 * time.Hour)
	w.use(used.Key, 1)
	testkit.Eventually(w.t, "the use is stored", func() bool {
		return testkit.Must[management.KeyRecord](t)(w.Key(ctx, ada, "", used.ID)).LastUsedAt != nil
	})
	w.start(often)
	w.clock.Advance(31 * 24 * time.Hour)
	testkit.Eventually(w.t, "an event", func() bool { return len(e.got()) > 0 })
	w.scanned()
	if n := len(w.deliveries(hook.ID)); n != 1 || e.got()[0].field(t, "key_id") != idle.ID {
		t.Fatalf("%d events, want one of the idle key", n)
	}
	w.clock.Advance(60 * 24 * time.Hour)
	testkit.Eventually(w.t, "an event of the other key", func() bool { return len(e.got()) == 2 })
	if p := e.got()[1]; p.field(t, "key_id") != used.ID {
		t.Errorf("got %s", p.body)
	}
}

func TestLimitEvents(t *testing.T) {
	w := newFixture(t)
	w.clock.Advance(-time.Hour) // The clock is set so that the hour that passes below ends now, in the same month.
	e := newEndpoint(t, nil)
	w.start()
	w.tenant("acme", "pro") // the plan pro allows 10 requests a month
	w.hook(e.URL, "acme", "quota.threshold", "limit.reached")
	k := w.key("acme")
	w.use(k.Key, 7)
	w.use(k.Key, 1)
	testkit.Eventually(w.t, "80 %", func() bool { return e.types()["quota.threshold"] == 1 })
	p := e.got()[0]
	if p.field(t, "percent") != 80. || p.field(t, "used") != 8. || p.field(t, "limit") != 10. || p.field(t, "policy") != "10/month" {
		t.Errorf("got %s", p.body)
	}
	w.use(k.Key, 2)
	testkit.Eventually(w.t, "100 %", func() bool { return e.types()["quota.threshold"] == 2 })
	if reason := w.use(k.Key, 20); reason != gateway.QuotaExceeded {
		t.Fatalf("rejected with %s", reason)
	}
	testkit.Eventually(w.t, "the limit", func() bool { return e.types()["limit.reached"] == 1 })
	for _, p := range e.got() {
		if p.Type == "limit.reached" && (p.field(t, "key_id") != k.ID || p.field(t, "reason") != "quota_exceeded") {
			t.Errorf("got %s", p.body)
		}
	}
	// limit.reached comes once an hour at most, also after a restart.
	w.stop()
	w.start()
	w.use(k.Key, 20)
	w.clock.Advance(time.Hour)
	w.use(k.Key, 1)
	testkit.Eventually(w.t, "the event of the next hour", func() bool { return e.types()["limit.reached"] == 2 })
	if got := e.types(); got["quota.threshold"] != 2 || got["limit.reached"] != 2 {
		t.Errorf("events %v", got)
	}
}

func TestCreditsEvents(t *testing.T) {
	w := newFixture(t)
	e := newEndpoint(t, nil)
	w.start()
	w.tenant("acme", "paid")
	hook := w.hook(e.URL, "", "credits.threshold")
	testkit.Must[int64](t)(w.AddCredits(ctx, ada, "", "acme", 10, ""))
	k := w.key("acme")
	w.use(k.Key, 9) // 1 of 10 is left
	testkit.Eventually(w.t, "it is low", func() bool { return len(e.got()) == 1 })
	if p := e.got()[0]; p.field(t, "percent") != 20. || p.field(t, "balance") != 1. || p.field(t, "of") != 10. {
		t.Errorf("got %s", p.body)
	}
	// Credits spent by the API count too, and their event is stored before the call returns.
	testkit.Must[int64](t)(w.SpendCredits(ctx, ada, "", "acme", 1, ""))
	if n := len(w.deliveries(hook.ID)); n != 2 {
		t.Errorf("%d deliveries when the spending returned, want 2", n)
	}
	testkit.Eventually(w.t, "it is empty", func() bool { return len(e.got()) == 2 })
	if p := e.got()[1]; p.field(t, "percent") != 0. || p.field(t, "balance") != 0. {
		t.Errorf("got %s", p.body)
	}
	// After a top-up, the thresholds are reached again.
	testkit.Must[int64](t)(w.AddCredits(ctx, ada, "", "acme", 100, ""))
	testkit.Must[int64](t)(w.SpendCredits(ctx, ada, "", "acme", 70, ""))
	testkit.Must[int64](t)(w.SpendCredits(ctx, ada, "", "acme", 15, ""))
	testkit.Must[int64](t)(w.SpendCredits(ctx, ada, "", "acme", 5, ""))
	testkit.Eventually(w.t, "it is low again", func() bool { return len(e.got()) == 3 })
	if p := e.got()[2]; p.field(t, "percent") != 20. || p.field(t, "balance") != 15. || len(w.deliveries(hook.ID)) != 3 {
		t.Errorf("got %s", p.body)
	}
}

// listener receives some types of events.
type listener struct {
	mu       sync.Mutex
	received []events.Event
}

func (l *listener) Wants(t string) bool {
	return t == "key.created" || t == "key.expired" || t == "a.b"
}
func (l *listener) Receive(e events.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.received = append(l.received, e)
}

func TestListenerReceivesWantedEvents(t *testing.T) {
	w := newFixture(t)
	l := new(listener)
	w.Manager = management.New(management.Config{
		Store: w.store, Engine: w.gw, View: func() *gateway.View { return w.view }, Now: w.clock.Now, Listener: l,
	})
	w.Registry = webhooks.New(w.Manager, w.current)
	w.tenant("acme", "pro")
	k := w.key("acme", expires(time.Hour))
	if _, err := w.RevokeKey(ctx, ada, "", k.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := w.CreateKey(ctx, ada, "", "nobody", management.KeyFields{Name: management.Some("x")}); err == nil {
		t.Fatal("created a key of a tenant that does not exist")
	}
	testkit.Must[webhooks.PostedEvent](t)(w.PostEvent(ctx, ada, "", "acme", "a.b", nil))
	w.key("acme", expires(time.Hour))
	w.clock.Advance(2 * time.Hour)
	for range 2 {
		if err := w.AnnounceExpiries(ctx, ""); err != nil {
			t.Fatal(err)
		}
	}
	var types []string
	for _, e := range l.received {
		types = append(types, e.Type)
	}
	if len(types) != 4 || types[0] != "key.created" || types[1] != "a.b" || types[2] != "key.created" || types[3] != "key.expired" {
		t.Errorf("received %v", types)
	}
}

func TestPublicAddr(t *testing.T) {
	for addr, want := range map[string]bool{
		"8.8.8.8": true, "1.1.1.1": true, "172.15.255.255": true, "172.32.0.0": true, "100.63.255.255": true, "100.128.0.0": true,
		"2606:4700:4700::1111": true, "2a00:1450:4001::1": true,
		"127.0.0.1": false, "127.255.255.254": false, "0.0.0.0": false, "0.1.2.3": false,
		"10.0.0.1": false, "172.16.0.1": false, "172.31.255.255": false, "192.168.1.1": false,
		"169.254.169.254": false, "169.254.0.1": false, "100.64.0.1": false, "100.127.255.255": false,
		"224.0.0.1": false, "239.255.255.255": false, "240.0.0.1": false, "255.255.255.255": false,
		"192.0.0.192": false, "168.63.129.16": false, "192.0.2.1": false, "198.18.0.1": false, "198.51.100.7": false, "203.0.113.9": false, "192.88.99.1": false,
		"::": false, "::1": false, "::127.0.0.1": false, "::ffff:127.0.0.1": false, "::ffff:10.0.0.1": false, "::ffff:8.8.8.8": false,
		"fe80::1": false, "fe80::1%eth0": false, "fec0::1": false, "fc00::1": false, "fd00:ec2::254": false, "ff02::1": false,
		"64:ff9b::7f00:1": false, "64:ff9b::a9fe:a9fe": false, "64:ff9b:1::a00:1": false,
		"2002:7f00:1::": false, "2001:0:7f00:1::": false, "2001:db8::1": false, "3fff::1": false, "100::1": false, "5f00::1": false,
	} {
		if got := webhooks.PublicAddr(netip.MustParseAddr(addr)); got != want {
			t.Errorf("PublicAddr(%s) = %v, want %v", addr, got, want)
		}
	}
	if webhooks.PublicAddr(netip.Addr{}) {
		t.Error("the invalid address counts as public")
	}
}
