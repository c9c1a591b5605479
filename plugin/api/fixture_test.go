package api_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/teststore"
	"github.com/keygate-dev/keygate/plugin/api"
	"github.com/keygate-dev/keygate/plugin/api/apitest"
	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/cluster"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/inspect"
	"github.com/keygate-dev/keygate/plugin/leak"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/leaks"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
	"github.com/keygate-dev/keygate/plugin/store/sqlite"
)

// fixture is the API over a real manager, store and gateway.
type fixture struct {
	t        testing.TB
	handler  http.Handler
	store    *sqlite.Store
	gw       *cluster.Member
	view     *gateway.View
	manager  *management.Manager
	reporter *leaks.Reporter
	access   api.Access
	gitHub   *leak.Keys
	// unavailable makes Explain answer as a gateway whose store does not answer.
	unavailable atomic.Bool
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	ctx := context.Background()
	quiet := slog.New(slog.DiscardHandler)
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	w := &fixture{t: t, access: api.Access{Actor: management.Actor{Name: "ada", Via: "api"}}}
	var err error
	w.store = teststore.SQLite(t, filepath.Join(t.TempDir(), "keygate.db"), quiet)
	w.gw, err = cluster.New(cluster.Options{Options: gateway.Options{Store: w.store, Logger: quiet}})
	check(err)
	check(w.gw.Start(ctx))
	t.Cleanup(func() { _ = w.gw.Close(ctx); _ = w.store.Close() })
	hasher, err := apikey.NewHasher()
	check(err)
	space := func(name, prefix string, place apikey.Place) *gateway.Keyspace {
		grammar, err := apikey.NewGrammar([]apikey.Prefix{{Value: prefix, Environment: "live"}}, apikey.Format{Length: 32, Checksum: apikey.CRC32}, nil)
		check(err)
		places, err := apikey.NewPlaces(place)
		check(err)
		ks := &gateway.Keyspace{
			Name: name, Grammar: grammar, Places: places, DefaultPlan: "free",
			Scopes: gateway.Scopes{Names: []string{"admin", "free"}, Cumulative: true}, Plans: map[string]*gateway.Plan{},
		}
		rate, err := ratelimit.ParseRate("60/m burst 10")
		check(err)
		for _, p := range []*gateway.Plan{
			{Name: "free", MaxKeys: 2, Scopes: []string{"free"}, Limits: []*ratelimit.Policy{rate}}, {Name: "pro"},
		} {
			p.Cap = ks.Scopes.All()
			if p.Scopes != nil {
				p.Cap = ks.Scopes.Closure(p.Scopes)
			}
			ks.Plans[p.Name], ks.PlanOrder = p, append(ks.PlanOrder, p.Name)
		}
		return ks
	}
	w.view = gateway.NewView(hasher,
		space("default", "kg_live_", apikey.Place{Kind: apikey.InAuthorization, Name: "Bearer"}),
		space("convoy", "convoy_sk_", apikey.Place{Kind: apikey.InHeader, Name: "X-API-Key"}))
	m := management.New(management.Config{Store: w.store, Engine: w.gw, View: func() *gateway.View { return w.view }, Logger: quiet})
	w.manager, w.reporter = m, leaks.New(m)
	w.handler = api.New(m, api.Options{
		Verifier:     requestChecker{w},
		Leaks:        w.reporter,
		Status:       func(context.Context) inspect.Status { return status },
		Authenticate: func(*http.Request) (api.Access, error) { return w.access, nil },
		GitHubKeys:   func() *leak.Keys { return w.gitHub },
	})
	return w
}

var status = inspect.Status{
	Node: "n1", Problems: []string{}, Keyspaces: []string{"convoy", "default"}, Nodes: []inspect.NodeStatus{{Node: "n1", Self: true}},
}

// requestChecker checks keys with the fixture's gateway, without rules for paths.
type requestChecker struct{ w *fixture }

func (c requestChecker) Verify(ctx context.Context, keyspace string, q inspect.Request) (inspect.Result, error) {
	return c.check(ctx, keyspace, q, nil)
}

func (c requestChecker) check(ctx context.Context, keyspace string, q inspect.Request, trace *gateway.Trace) (inspect.Result, error) {
	r := gateway.Request{
		Now: time.Now(), View: c.w.view, Keyspace: c.w.view.Keyspaces[keyspace], Credential: q.Key, Addr: q.IP, Cost: 1, NoConcurrency: true,
		Trace: trace,
	}
	if q.Key == "" {
		r.FindErr = apikey.ErrMissing
	}
	var d gateway.Decision
	c.w.gw.Check(ctx, &r, &d)
	defer d.Done()
	result := inspect.Result{Allowed: d.Allowed(), Reason: d.Reason.String(), Status: d.Reason.Status()}
	if d.Key != nil {
		result.Tenant, result.KeyID = d.Tenant.Slug, d.Key.ID
	}
	return result, nil
}

func (c requestChecker) Explain(ctx context.Context, keyspace string, q inspect.Request) (inspect.Result, error) {
	if c.w.unavailable.Load() {
		return inspect.Result{Reason: gateway.Unavailable.String(), Status: gateway.Unavailable.Status()}, nil
	}
	return c.check(ctx, keyspace, q, new(gateway.Trace))
}

// described returns the OpenAPI document that every response is checked against.
var described = sync.OnceValue(func() *apitest.Document {
	unused := func(*http.Request) (api.Access, error) { panic("the document needs no authentication") }
	m := management.New(management.Config{Store: struct{ management.Store }{}, Engine: struct{ management.Engine }{}, View: func() *gateway.View { return nil }})
	rec := httptest.NewRecorder()
	api.New(m, api.Options{Authenticate: unused}).ServeHTTP(rec, httptest.NewRequest("GET", "/v1/openapi.json", nil))
	d, err := apitest.Parse(rec.Body.Bytes())
	if err != nil {
		panic(err)
	}
	return d
})

// answer is a response of the API.
type answer struct {
	t      testing.TB
	status int
	header http.Header
	body   string
}

// send sends one request. header holds names and values in turn.
func (w *fixture) send(method, target, body string, header ...string) answer {
	w.t.Helper()
	var in io.Reader
	if body != "" {
		in = strings.NewReader(body)
	}
	r := httptest.NewRequest(method, target, in)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	w.handler.ServeHTTP(rec, r)
	if err := described().Check(method, r.URL.EscapedPath(), rec.Code, rec.Header(), rec.Body.Bytes()); err != nil {
		w.t.Error(err)
	}
	return answer{w.t, rec.Code, rec.Header(), rec.Body.String()}
}

// want checks the status, and returns the body as JSON.
func (a answer) want(status int) map[string]any {
	a.t.Helper()
	if a.status != status {
		a.t.Fatalf("answered %d %s, want %d", a.status, a.body, status)
	}
	if a.body == "" {
		return nil
	}
	var m map[string]any
	if err := json.Unmarshal([]byte(a.body), &m); err != nil {
		a.t.Fatalf("answered %s: %v", a.body, err)
	}
	return m
}

// wantProblem checks that the response is a problem (RFC 9457) with the status and the code.
// pointer is the field or parameter that the problem names first, or "".
func (a answer) wantProblem(status int, code, pointer string) {
	a.t.Helper()
	m := a.want(status)
	if ct := a.header.Get("Content-Type"); ct != "application/problem+json" {
		a.t.Errorf("Content-Type %q", ct)
	}
	if m["code"] != code || m["status"] != float64(status) || m["title"] == "" || m["detail"] == "" || m["type"] == nil {
		a.t.Errorf("problem %s, want code %s", a.body, code)
	}
	got := ""
	if list, ok := m["errors"].([]any); ok {
		first := list[0].(map[string]any)
		if got, ok = first["pointer"].(string); !ok {
			got, _ = first["parameter"].(string)
		}
	}
	if got != pointer {
		a.t.Errorf("the problem names %q, want %q: %s", got, pointer, a.body)
	}
}
