package management_test

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"

	"github.com/keygate-dev/keygate/internal/testkit"
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

// fixture is a manager over a real store and a real gateway.
type fixture struct {
	*management.Manager
	*auth.Authority
	*webhooks.Registry
	t     testing.TB
	store *sqlite.Store
	gw    *cluster.Member
	mu    sync.Mutex
	view  *gateway.View
	clock testkit.Clock
}

var (
	ctx = context.Background()
	ada = management.Actor{Name: "ada", IP: "192.0.2.1", Via: "api"}
)

func newFixture(t testing.TB) *fixture {
	t.Helper()
	w := &fixture{t: t}
	quiet := slog.New(slog.DiscardHandler)
	w.store = teststore.SQLite(t, filepath.Join(t.TempDir(), "keygate.db"), quiet)
	w.gw = testkit.Must[*cluster.Member](t)(cluster.New(cluster.Options{Options: gateway.Options{Store: w.store, Node: "n1", Logger: quiet}}))
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
		Store: w.store, Engine: w.gw, View: w.current, Now: w.clock.Now, Logger: quiet,
	})
	w.Authority = auth.New(w.Manager)
	w.Registry = webhooks.New(w.Manager, nil)
	return w
}

func (w *fixture) current() *gateway.View {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.view
}

// configure activates a configuration of two keyspaces. The plan free allows maxKeys keys and the
// scopes freeScopes, pro allows deployment, and business allows everything.
func (w *fixture) configure(defaultPlan string, maxKeys int, freeScopes ...string) {
	w.t.Helper()
	hasher := testkit.Must[*apikey.Hasher](w.t)(apikey.NewHasher())
	space := func(name, prefix string, scopes gateway.Scopes) *gateway.Keyspace {
		ks := &gateway.Keyspace{
			Name: name, Scopes: scopes, DefaultPlan: defaultPlan, Plans: map[string]*gateway.Plan{},
			Grammar: testkit.Must[*apikey.Grammar](w.t)(apikey.NewGrammar([]apikey.Prefix{
				{Value: prefix + "live_", Environment: "live"}, {Value: prefix + "test_", Environment: "test"},
			}, apikey.Format{Length: 32, Checksum: apikey.CRC32}, nil)),
			Places: testkit.Must[*apikey.Places](w.t)(apikey.NewPlaces()),
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
			testkit.Must[*ratelimit.Policy](w.t)(ratelimit.ParseRate("300/m burst 60")), ratelimit.NewCredits(),
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

func (w *fixture) tenant(slug, plan string) management.TenantRecord {
	w.t.Helper()
	return testkit.Must[management.TenantRecord](w.t)(w.CreateTenant(ctx, ada, "", slug, management.TenantFields{Plan: management.Some(plan)}))
}

func (w *fixture) key(tenant string, more ...func(*management.KeyFields)) management.IssuedKey {
	w.t.Helper()
	f := management.KeyFields{Name: management.Some("ci")}
	for _, m := range more {
		m(&f)
	}
	return testkit.Must[management.IssuedKey](w.t)(w.CreateKey(ctx, ada, "", tenant, f))
}

// check returns the reason with which the gateway answers a full key now.
func (w *fixture) check(full string) gateway.Reason {
	w.t.Helper()
	v := w.current()
	r := gateway.Request{
		Now: w.clock.Now(), View: v, Keyspace: v.Keyspaces["default"], Credential: full,
		Addr: netip.MustParseAddr("192.0.2.7"), Cost: 1, NoConcurrency: true,
	}
	var d gateway.Decision
	w.gw.Check(ctx, &r, &d)
	defer d.Done()
	return d.Reason
}

func (w *fixture) wantReason(full string, want gateway.Reason) {
	w.t.Helper()
	if got := w.check(full); got != want {
		w.t.Errorf("rejected with %v, want %v", got, want)
	}
}

// wantError checks that err is an *management.Error with that status and code, and with faults in
// these fields.
func wantError(t testing.TB, err error, status int, code string, pointers ...string) {
	t.Helper()
	var e *management.Error
	if !errors.As(err, &e) {
		t.Fatalf("error %v, want one with %d %s", err, status, code)
	}
	if e.Status != status || e.Code != code {
		t.Fatalf("error %d %s (%v), want %d %s", e.Status, e.Code, e, status, code)
	}
	if e.Detail == "" {
		t.Error("the error has no detail")
	}
	for i, p := range pointers {
		if i >= len(e.Fields) || e.Fields[i].Pointer != p {
			t.Errorf("fields at fault: %+v, want %v", e.Fields, pointers)
			return
		}
	}
}

// wantIntact checks that the audit chain is valid and has n events.
func (w *fixture) wantIntact(n int64) {
	w.t.Helper()
	r := testkit.Must[audit.Report](w.t)(w.VerifyAudit(ctx))
	if !r.Intact || n >= 0 && r.Events != n {
		w.t.Errorf("audit chain: %+v, want %d intact events", r, n)
	}
}
