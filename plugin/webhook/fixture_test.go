package webhook_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/internal/teststore"
	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/cluster"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/webhooks"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
	"github.com/keygate-dev/keygate/plugin/store/sqlite"
	"github.com/keygate-dev/keygate/plugin/webhook"
)

var (
	ctx = context.Background()
	ada = management.Actor{Name: "ada", IP: "192.0.2.1", Via: "api"}
)

// loopback is the block of addresses in which the tests' endpoints are.
var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

// fixture is a Service over a real store, manager and gateway.
type fixture struct {
	*management.Manager
	*webhooks.Registry
	t       *testing.T
	path    string
	store   *sqlite.Store
	gw      *cluster.Member
	view    *gateway.View
	service *webhook.Service
	log     *slog.Logger

	clock testkit.Clock
	// scans counts how often the Service has asked for the keyspaces, which it does twice in each scan.
	scans atomic.Int64

	mu       sync.Mutex
	settings webhooks.Settings
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	w := &fixture{t: t, path: filepath.Join(t.TempDir(), "keygate.db"), log: slog.New(slog.DiscardHandler)}
	w.settings = webhooks.Settings{
		Sealer: testkit.Must[*webhook.Vault](t)(webhook.NewVault("correct horse battery staple")),
		Reach:  webhooks.Reach{Private: loopback}, Expiring: webhooks.DefaultExpiring, Unused: webhooks.DefaultUnused,
	}
	w.store = teststore.SQLite(t, w.path, w.log)
	w.gw = testkit.Must[*cluster.Member](t)(cluster.New(cluster.Options{Options: gateway.Options{Store: w.store, Logger: w.log}}))
	if err := w.gw.Start(ctx); err != nil {
		t.Fatal(err)
	}
	scopes := gateway.Scopes{}
	plan := &gateway.Plan{Name: "pro", Cap: scopes.All(), Limits: []*ratelimit.Policy{
		testkit.Must[*ratelimit.Policy](t)(ratelimit.ParseQuota("10/month")),
	}}
	paid := &gateway.Plan{Name: "paid", Cap: scopes.All(), Limits: []*ratelimit.Policy{ratelimit.NewCredits()}}
	w.view = gateway.NewView(testkit.Must[*apikey.Hasher](t)(apikey.NewHasher()), &gateway.Keyspace{
		Name: "default", DefaultPlan: "pro", Plans: map[string]*gateway.Plan{"pro": plan, "paid": paid}, PlanOrder: []string{"pro", "paid"},
		Grammar: testkit.Must[*apikey.Grammar](t)(apikey.NewGrammar([]apikey.Prefix{{Value: "kg_live_", Environment: "live"}},
			apikey.Format{Length: 32, Checksum: apikey.CRC32}, nil)),
		Places: testkit.Must[*apikey.Places](t)(apikey.NewPlaces()),
	})
	w.Manager = management.New(management.Config{
		Store: w.store, Engine: w.gw, View: func() *gateway.View { return w.view }, Now: w.clock.Now, Logger: w.log,
	})
	w.Registry = webhooks.New(w.Manager, w.current)
	t.Cleanup(func() {
		w.stop()
		if err := w.gw.Close(ctx); err != nil {
			t.Error(err)
		}
		_ = w.store.Close()
	})
	return w
}

func (w *fixture) current(string) webhooks.Settings {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.settings
}

func (w *fixture) configure(f func(*webhooks.Settings)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(&w.settings)
}

// start runs the Service, with short pauses unless change sets others.
func (w *fixture) start(change ...func(*webhook.Options)) {
	o := webhook.Options{
		Store: w.store, Manager: w.Manager, Settings: w.current, Keyspaces: w.keyspaces,
		Logger: w.log, Now: w.clock.Now, Schedule: quickly(10), Poll: 20 * time.Millisecond,
	}
	for _, f := range change {
		f(&o)
	}
	w.service = webhook.New(o)
	w.gw.Watch(w.service)
	w.service.Start()
}

func (w *fixture) keyspaces() []string {
	w.scans.Add(1)
	return []string{"default"}
}

// scanned waits until the Service has looked for events of time once more, from the beginning to the end.
func (w *fixture) scanned() {
	w.t.Helper()
	n := w.scans.Load()
	testkit.Eventually(w.t, "a whole scan", func() bool { return w.scans.Load() >= n+5 })
}

// quickly returns a schedule of n further attempts with short pauses.
func quickly(n int) []time.Duration {
	out := make([]time.Duration, n)
	for i := range out {
		out[i] = 5 * time.Millisecond
	}
	return out
}

func (w *fixture) stop() {
	if w.service != nil {
		if err := w.service.Close(ctx); err != nil {
			w.t.Error(err)
		}
		w.service = nil
	}
}

func (w *fixture) tenant(slug, plan string) {
	w.t.Helper()
	testkit.Must[management.TenantRecord](w.t)(w.CreateTenant(ctx, ada, "", slug, management.TenantFields{Plan: management.Some(plan)}))
}

func (w *fixture) key(tenant string, more ...func(*management.KeyFields)) management.IssuedKey {
	w.t.Helper()
	f := management.KeyFields{Name: management.Some("ci")}
	for _, m := range more {
		m(&f)
	}
	return testkit.Must[management.IssuedKey](w.t)(w.CreateKey(ctx, ada, "", tenant, f))
}

// hook creates a webhook with url as its endpoint.
func (w *fixture) hook(url, tenant string, events ...string) webhooks.Issued {
	w.t.Helper()
	f := webhooks.Fields{URL: management.Some(url)}
	if tenant != "" {
		f.Tenant = management.Some(tenant)
	}
	if len(events) > 0 {
		f.Events = management.Some(events)
	}
	return testkit.Must[webhooks.Issued](w.t)(w.CreateWebhook(ctx, ada, "", f))
}

// use sends n requests with a key and returns the outcome of the last.
func (w *fixture) use(full string, n int) gateway.Reason {
	w.t.Helper()
	var d gateway.Decision
	for range n {
		r := gateway.Request{
			Now: w.clock.Now(), View: w.view, Keyspace: w.view.Keyspaces["default"], Credential: full,
			Addr: netip.MustParseAddr("192.0.2.7"), Cost: 1, NoConcurrency: true,
		}
		w.gw.Check(ctx, &r, &d)
		d.Done()
	}
	return d.Reason
}

// deliveries returns the deliveries of a webhook, newest first.
func (w *fixture) deliveries(id string) []webhooks.DeliveryRecord {
	w.t.Helper()
	return testkit.Must[management.Page[webhooks.DeliveryRecord]](w.t)(w.Deliveries(ctx, ada, "", id, webhooks.DeliveryFilter{})).Data
}

// post is a request that an endpoint received.
type post struct {
	header http.Header
	body   []byte
	Type   string          `json:"type"`
	At     time.Time       `json:"timestamp"`
	Data   json.RawMessage `json:"data"`
}

func (p post) field(t testing.TB, name string) any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(p.Data, &m); err != nil {
		t.Fatal(err)
	}
	return m[name]
}

// endpoint receives events.
type endpoint struct {
	*httptest.Server
	t testing.TB

	mu     sync.Mutex
	posts  []post
	answer func(n int, w http.ResponseWriter, r *http.Request)
}

// newEndpoint starts an endpoint. answer answers each post, and n is the number of earlier posts;
// nil answers 204.
func newEndpoint(t testing.TB, answer func(n int, w http.ResponseWriter, r *http.Request)) *endpoint {
	e := &endpoint{t: t, answer: answer}
	e.Server = httptest.NewServer(e)
	t.Cleanup(e.Close)
	return e
}

func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p := post{header: r.Header}
	p.body, _ = io.ReadAll(r.Body)
	if err := json.Unmarshal(p.body, &p); err != nil || r.Method != http.MethodPost {
		e.t.Errorf("%s %s: %v", r.Method, p.body, err)
	}
	e.mu.Lock()
	n := len(e.posts)
	e.posts = append(e.posts, p)
	answer := e.answer
	e.mu.Unlock()
	if answer == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	answer(n, w, r)
}

func (e *endpoint) got() []post {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]post(nil), e.posts...)
}

func (e *endpoint) answers(f func(n int, w http.ResponseWriter, r *http.Request)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.answer = f
}

// types returns how often each type was received.
func (e *endpoint) types() map[string]int {
	out := map[string]int{}
	for _, p := range e.got() {
		out[p.Type]++
	}
	return out
}

func status(code int) func(int, http.ResponseWriter, *http.Request) {
	return func(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}
