package management_test

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/teststore"
	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/cluster"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/management/auth"
	"github.com/keygate-dev/keygate/plugin/management/webhooks"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
	"github.com/keygate-dev/keygate/plugin/store/sqlite"
)

// world is a manager over a real store and a real gateway.
type world struct {
	*management.Manager
	*auth.Authority
	*webhooks.Registry
	t     testing.TB
	store *sqlite.Store
	gw    *cluster.Member
	mu    sync.Mutex
	view  *gateway.View
	// ahead is added to the clock.
	ahead time.Duration
}

var (
	ctx = context.Background()
	ada = management.Actor{Name: "ada", IP: "192.0.2.1", Via: "api"}
)

func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t}
	quiet := slog.New(slog.DiscardHandler)
	w.store = teststore.SQLite(t, filepath.Join(t.TempDir(), "keygate.db"), quiet)
	w.gw = must[*cluster.Member](t)(cluster.New(cluster.Options{Options: gateway.Options{Store: w.store, Node: "n1", Logger: quiet}}))
	if err := w.gw.Start(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.gw.Close(ctx); err != nil {
			t.Error(err)
		}
		_ = w.store.Close()
	})
	w.configure("free", 3, "free")
	w.Manager = management.New(management.Config{
		Store: w.store, Engine: w.gw, View: w.current, Now: w.now, Logger: quiet,
	})
	w.Authority = auth.New(w.Manager)
	w.Registry = webhooks.New(w.Manager, nil)
	return w
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.ahead)
}

func (w *world) current() *gateway.View {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.view
}

// configure makes a configuration of two keyspaces the current one. Its plan free
// allows maxKeys keys and the scopes; pro allows deployment, business everything.
func (w *world) configure(defaultPlan string, maxKeys int, freeScopes ...string) {
	w.t.Helper()
	hasher := must[*apikey.Hasher](w.t)(apikey.NewHasher())
	space := func(name, prefix string, scopes gateway.Scopes) *gateway.Keyspace {
		ks := &gateway.Keyspace{
			Name: name, Scopes: scopes, DefaultPlan: defaultPlan, Plans: map[string]*gateway.Plan{},
			Grammar: must[*apikey.Grammar](w.t)(apikey.NewGrammar([]apikey.Prefix{
				{Value: prefix + "live_", Environment: "live"}, {Value: prefix + "test_", Environment: "test"},
			}, apikey.Format{Length: 32, Checksum: apikey.CRC32}, nil)),
			Places: must[*apikey.Places](w.t)(apikey.NewPlaces()),
		}
		add := func(p *gateway.Plan) {
			p.Cap = scopes.All()
			if p.Scopes != nil {
				p.Cap = scopes.Closure(p.Scopes)
			}
			ks.Plans[p.Name], ks.PlanOrder = p, append(ks.PlanOrder, p.Name)
		}
		add(&gateway.Plan{Name: "free", MaxKeys: maxKeys, Scopes: freeScopes})
		add(&gateway.Plan{Name: "pro", Scopes: []string{"deployment"}, Limits: []*ratelimit.Policy{
			must[*ratelimit.Policy](w.t)(ratelimit.ParseRate("300/m burst 60")), ratelimit.NewCredits(),
		}})
		add(&gateway.Plan{Name: "business"})
		return ks
	}
	v := gateway.NewView(hasher,
		space("default", "kg_", gateway.Scopes{Names: []string{"admin", "deployment", "free"}, Cumulative: true}),
		space("other", "ot_", gateway.Scopes{Names: []string{"free", "deployment", "x"}}))
	w.mu.Lock()
	w.view = v
	w.mu.Unlock()
}

func (w *world) tenant(slug, plan string) management.TenantRecord {
	w.t.Helper()
	return must[management.TenantRecord](w.t)(w.CreateTenant(ctx, ada, "", slug, management.TenantFields{Plan: management.Some(plan)}))
}

func (w *world) key(tenant string, more ...func(*management.KeyFields)) management.IssuedKey {
	w.t.Helper()
	f := management.KeyFields{Name: management.Some("ci")}
	for _, m := range more {
		m(&f)
	}
	return must[management.IssuedKey](w.t)(w.CreateKey(ctx, ada, "", tenant, f))
}

// judge returns what the gateway says of a full key now.
func (w *world) judge(full string) gateway.Reason {
	w.t.Helper()
	v := w.current()
	r := gateway.Request{
		Now: w.now(), View: v, Keyspace: v.Keyspaces["default"], Credential: full,
		Addr: netip.MustParseAddr("192.0.2.7"), Cost: 1, NoConcurrency: true,
	}
	var d gateway.Decision
	w.gw.Check(ctx, &r, &d)
	defer d.Done()
	return d.Reason
}

func (w *world) wantJudged(full string, want gateway.Reason) {
	w.t.Helper()
	if got := w.judge(full); got != want {
		w.t.Errorf("judged %v, want %v", got, want)
	}
}

// wantRefused checks that err is a refusal of that status and code, and names the
// fields at fault.
func wantRefused(t testing.TB, err error, status int, code string, pointers ...string) {
	t.Helper()
	var e *management.Error
	if !errors.As(err, &e) {
		t.Fatalf("error %v, want a refusal with %d %s", err, status, code)
	}
	if e.Status != status || e.Code != code {
		t.Fatalf("refused with %d %s (%v), want %d %s", e.Status, e.Code, e, status, code)
	}
	if e.Detail == "" {
		t.Error("the refusal says nothing")
	}
	for i, p := range pointers {
		if i >= len(e.Fields) || e.Fields[i].Pointer != p {
			t.Errorf("fields at fault: %+v, want %v", e.Fields, pointers)
			return
		}
	}
}

// wantIntact checks the audit chain and that it holds n events.
func (w *world) wantIntact(n int64) {
	w.t.Helper()
	r := must[audit.Report](w.t)(w.VerifyAudit(ctx))
	if !r.Intact || n >= 0 && r.Events != n {
		w.t.Errorf("audit chain: %+v, want %d intact events", r, n)
	}
}
