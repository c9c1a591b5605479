package engine_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/cluster"
	"github.com/keygate-dev/keygate/plugin/engine"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

// keyspace is the name of the only keyspace in the configurations of the engine's tests.
const keyspace = "shop"

var operator = management.Actor{Name: "test", Via: "cli"}

// config is an engine configuration that records calls of Ready and log messages for a test.
type config struct {
	engine.Config
	// ready receives one value for each call of Ready.
	ready chan struct{}
	log   *testkit.Buffer
}

// newConfig returns a configuration with plans of the given names. The first plan is the default.
func newConfig(t *testing.T, plans ...string) *config {
	t.Helper()
	hasher := testkit.Must[*apikey.Hasher](t)(apikey.NewHasher())
	grammar := testkit.Must[*apikey.Grammar](t)(apikey.NewGrammar([]apikey.Prefix{{Value: "kg_live_", Environment: "live"}}, apikey.Format{}, nil))
	places := testkit.Must[*apikey.Places](t)(apikey.NewPlaces())
	ks := &gateway.Keyspace{Name: keyspace, Grammar: grammar, Places: places, Plans: map[string]*gateway.Plan{}}
	rate := testkit.Must[*ratelimit.Policy](t)(ratelimit.ParseRate("1000/s"))
	for _, name := range plans {
		ks.Plans[name] = &gateway.Plan{Name: name, Cap: ks.Scopes.All(), Limits: []*ratelimit.Policy{rate}, OnRedisDown: "open"}
		ks.PlanOrder = append(ks.PlanOrder, name)
	}
	ks.DefaultPlan = plans[0]
	c := &config{ready: make(chan struct{}, 10), log: new(testkit.Buffer)}
	c.Config = engine.Config{
		View: gateway.NewView(hasher, ks), Staleness: cluster.Staleness{Default: time.Hour},
		Keyspaces: map[string]engine.Keyspace{keyspace: {}}, Log: slog.New(slog.NewTextHandler(c.log, nil)),
		Ready: func() { c.ready <- struct{}{} },
	}
	return c
}

// at changes the address of PostgreSQL in c, and returns c.
func (c *config) at(dsn string) *config {
	c.Address.DSN = dsn
	return c
}

// former makes the plan named plan replace the former plan named was. It returns c.
func (c *config) former(plan, was string) *config {
	ks := c.View.Keyspaces[keyspace]
	ks.Plans[plan].Was = append(ks.Plans[plan].Was, was)
	ks.Plans[was] = ks.Plans[plan]
	return c
}

// isReady reports whether Ready was called since isReady last returned true.
func (c *config) isReady() bool {
	select {
	case <-c.ready:
		return true
	default:
		return false
	}
}

// newEngine returns an engine that is closed when the test ends.
func newEngine(t *testing.T, o engine.Options) *engine.Engine {
	t.Helper()
	o.Log = slog.New(slog.DiscardHandler)
	if o.Target.Node == "" {
		o.Target.Node = "node"
	}
	e, err := engine.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeEngine(t, e) })
	return e
}

func closeEngine(t *testing.T, e *engine.Engine) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := e.Close(ctx); err != nil {
		t.Errorf("closing: %v", err)
	}
}

func apply(t *testing.T, e *engine.Engine, c *config) {
	t.Helper()
	if err := e.Apply(t.Context(), &c.Config); err != nil {
		t.Fatal(err)
	}
}

// applyFails applies c, and fails the test if Apply returns no error or the error lacks one of words.
func applyFails(t *testing.T, e *engine.Engine, c *config, words ...string) {
	t.Helper()
	err := e.Apply(t.Context(), &c.Config)
	if err == nil {
		t.Fatal("no error")
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q lacks %q", err, w)
		}
	}
	if c.isReady() {
		t.Error("a configuration that failed is ready")
	}
}

func wantState(t *testing.T, e *engine.Engine, want engine.State) {
	t.Helper()
	if s := e.State(); s != want {
		t.Errorf("state %s, want %s", s, want)
	}
}

func createTenant(t *testing.T, e *engine.Engine, slug, plan string) {
	t.Helper()
	if _, err := e.Manager().CreateTenant(t.Context(), operator, keyspace, slug, management.TenantFields{Plan: management.Some(plan)}); err != nil {
		t.Fatal(err)
	}
}

// createKey creates a tenant on the plan "free", and returns a new key of the tenant.
func createKey(t *testing.T, e *engine.Engine) string {
	t.Helper()
	createTenant(t, e, "key-holder", "free")
	k, err := e.Manager().CreateKey(t.Context(), operator, keyspace, "key-holder", management.KeyFields{Name: management.Some("ci")})
	if err != nil {
		t.Fatal(err)
	}
	return k.Key
}

func tenantsByPlan(t *testing.T, e *engine.Engine) map[string]int64 {
	t.Helper()
	held, err := e.Store().TenantsByPlan(t.Context(), keyspace)
	if err != nil {
		t.Fatal(err)
	}
	return held
}

// check returns the engine's decision on a request with key under the configuration c.
func check(e *engine.Engine, c *config, key string) gateway.Reason {
	var d gateway.Decision
	e.Gateway().Check(context.Background(), &gateway.Request{
		Now: time.Now(), View: c.View, Keyspace: c.View.Keyspaces[keyspace], Credential: key,
	}, &d)
	d.Done()
	return d.Reason
}
