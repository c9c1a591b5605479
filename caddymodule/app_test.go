package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/internal/testserver"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
)

// load replaces Caddy's running configuration by one that has the keygate app and the apps in extra.
func load(t *testing.T, app *App, extra caddy.ModuleMap) error {
	t.Helper()
	apps := caddy.ModuleMap{}
	for name, raw := range extra {
		apps[name] = raw
	}
	raw, err := json.Marshal(app)
	if err != nil {
		t.Fatal(err)
	}
	apps[config.AppName] = raw
	off := false
	config, err := json.Marshal(caddy.Config{
		Admin:   &caddy.AdminConfig{Disabled: true, Config: &caddy.ConfigSettings{Persist: &off}},
		AppsRaw: apps,
	})
	if err != nil {
		t.Fatal(err)
	}
	return loadRaw(t, string(config))
}

// loadRaw runs a configuration in JSON until the test ends.
func loadRaw(t *testing.T, config string) error {
	t.Helper()
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
	})
	return caddy.Load([]byte(config), true)
}

// stop stops the running configuration.
func stop(t *testing.T) {
	t.Helper()
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
}

// current returns the keygate app of the running configuration.
func current(t *testing.T) *App {
	t.Helper()
	app, err := caddy.ActiveContext().AppIfConfigured(config.AppName)
	if err != nil {
		t.Fatal(err)
	}
	return app.(*App)
}

// onSQLite returns an app that has a new SQLite store at path and the given plans.
func onSQLite(path string, plans ...*config.PlanConfig) *App {
	return &App{Config: config.Config{
		Store:     &config.StoreConfig{Path: path},
		Keyspaces: map[string]*config.KeyspaceConfig{"shop": {Plans: plans}},
	}}
}

func insertTenants(t *testing.T, a *App, plan string, slugs ...string) {
	t.Helper()
	err := a.engine.Store().Update(context.Background(), func(tx management.Tx) error {
		for _, slug := range slugs {
			now := time.Now()
			if err := tx.InsertTenant(&gateway.Tenant{Keyspace: "shop", Slug: slug, Plan: plan, Active: true, CreatedAt: now, UpdatedAt: now}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want one with %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q lacks %q", err, part)
		}
	}
}

func TestValidateTouchesNothing(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	config := []byte(`{"admin":{"disabled":true},"apps":{"keygate":{"store":{"path":"keys.db"}}}}`)
	if err := caddy.Validate(mustConfig(t, config)); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 0 {
		t.Errorf("validating created the files %v (%v)", files, err)
	}
}

func mustConfig(t *testing.T, raw []byte) *caddy.Config {
	t.Helper()
	config := new(caddy.Config)
	if err := caddy.StrictUnmarshalJSON(raw, config); err != nil {
		t.Fatal(err)
	}
	return config
}

// A configuration in JSON gets the same checks as a Caddyfile. Its errors name fields instead of lines.
func TestProvisionRejects(t *testing.T) {
	t.Setenv("KEYGATE_TEST_EMPTY", "")
	t.Setenv("KEYGATE_TEST_SHORT", "short")
	for _, tt := range []struct {
		name, app string
		want      []string
	}{
		{"unknown field", `{"keyspace": {}}`, []string{"unknown field"}},
		{"no address of PostgreSQL", `{"store": {"type": "postgres", "dsn": "http://u:secret@x"}}`, []string{"store", "postgres://"}},
		{"no address to listen on", `{"store": {"type": "postgres", "dsn": "postgres://u@x/d", "listen": "http://u:secret@x"}}`, []string{"store.listen", "postgres://"}},
		{"a node's name", `{"node": "a b", "store": {"type": "postgres", "dsn": "postgres://u@x/d"}}`, []string{"node", "spaces"}},
		{"no address of Redis", `{"limits": {"type": "redis", "address": "http://u:secret@x"}}`, []string{"limits redis", "redis://"}},
		{"unknown store", `{"store": {"type": "mysql"}}`, []string{"store: ", "unknown store 'mysql'"}},
		{"empty placeholder", `{"peppers": ["{env.KEYGATE_TEST_EMPTY}"]}`, []string{"peppers[0]", "{env.KEYGATE_TEST_EMPTY}"}},
		{"empty placeholder in a path", `{"store": {"path": "{env.KEYGATE_TEST_EMPTY}"}}`, []string{"store", "{env.KEYGATE_TEST_EMPTY}"}},
		{"empty secret", `{"secret": "{env.KEYGATE_TEST_EMPTY}"}`, []string{"secret", "{env.KEYGATE_TEST_EMPTY}"}},
		{"placeholder that does not exist", `{"peppers": ["{nothing.of.the.kind}"]}`, []string{"peppers[0]", "{nothing.of.the.kind}"}},
		{"short pepper", `{"peppers": ["{env.KEYGATE_TEST_SHORT}"]}`, []string{"peppers", "16"}},
		{"bad rate", `{"keyspaces": {"a": {"plans": [{"name": "x"}, {"name": "y", "limits": ["rate 5/m", "rate 5/q"]}]}}}`,
			[]string{"keyspaces.a.plans[1].limits[1]: ", "plan 'y'"}},
		{"no limit", `{"keyspaces": {"a": {"plans": [{"name": "y", "limits": ["speed 5/m"]}]}}}`, []string{"keyspaces.a.plans[0].limits[0]: "}},
		{"negative max_keys", `{"keyspaces": {"a": {"plans": [{"name": "y", "max_keys": -1}]}}}`, []string{"keyspaces.a.plans[0].max_keys: "}},
		{"unknown reason", `{"keyspaces": {"a": {"errors": {"refusals": {"no_key": {"status": 401}}}}}}`, []string{"keyspaces.a.errors.refusals.no_key: "}},
		{"null keyspace", `{"keyspaces": {"a": null}}`, []string{"keyspaces.a: "}},
		{"null plan", `{"keyspaces": {"a": {"plans": [null]}}}`, []string{"keyspaces.a.plans[0]: "}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			err := caddy.Validate(mustConfig(t, []byte(`{"admin":{"disabled":true},"apps":{"keygate":`+tt.app+`}}`)))
			wantError(t, err, tt.want...)
			if err != nil && strings.Contains(err.Error(), "short") && tt.name == "short pepper" && strings.Contains(err.Error(), `"short"`) {
				t.Errorf("the error shows the pepper: %v", err)
			}
			engines.Range(func(key, _ any) bool {
				t.Errorf("engine %v is still held", key)
				return true
			})
		})
	}
}

func TestHandlerRejectedInJSON(t *testing.T) {
	for _, tt := range []struct {
		name, handler string
		want          []string
	}{
		{"unknown keyspace", `{"keyspace": "b"}`, []string{"unknown keyspace 'b'"}},
		{"cost above a quota", `{"costs": [{"path": "/ok", "cost": 5}, {"path": "/x", "cost": 50}]}`, []string{"costs[1]: ", "10/day"}},
		{"unknown scope", `{"scopes": [{"path": "/x", "scope": "admin"}]}`, []string{"scopes[0]: "}},
		{"bad path", `{"public": [{"path": "x"}]}`, []string{"public[0]: "}},
		{"unknown field", `{"publik": []}`, []string{"publik"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			handler := `{"handler": "keygate",` + tt.handler[1:]
			err := caddy.Validate(mustConfig(t, []byte(`{"admin":{"disabled":true},"apps":{
				"keygate":{"keyspaces":{"a":{"plans":[{"name":"p","limits":["quota 10/day"]}]}}},
				"http":{"servers":{"s":{"listen":["127.0.0.1:0"],"routes":[{"handle":[`+handler+`]}]}}}}}`)))
			wantError(t, err, tt.want...)
		})
	}
}

func TestHandlerNeedsApp(t *testing.T) {
	for _, handler := range []string{"keygate", "keygate_health"} {
		err := caddy.Validate(mustConfig(t, fmt.Appendf(nil, `{"admin":{"disabled":true},"apps":{
			"http":{"servers":{"s":{"listen":["127.0.0.1:0"],"routes":[{"handle":[{"handler":%q}]}]}}}}}`, handler)))
		wantError(t, err, "keygate is not configured")
	}
}

func TestReloadKeepsTheEngine(t *testing.T) {
	db := filepath.Join(t.TempDir(), "keys.db")
	if err := load(t, onSQLite(db, &config.PlanConfig{Name: "free"}), nil); err != nil {
		t.Fatal(err)
	}
	first := current(t)
	if !first.Ready() {
		t.Error("a started app is not ready")
	}
	if err := load(t, onSQLite(db, &config.PlanConfig{Name: "free", Limits: []string{"rate 60/m"}}), nil); err != nil {
		t.Fatal(err)
	}
	second := current(t)
	if first == second || first.engine != second.engine {
		t.Error("a reload made another engine for the same store")
	}
	if first.Ready() || !second.Ready() {
		t.Errorf("ready: old %v, new %v", first.Ready(), second.Ready())
	}
	if second.engine.View() != second.compiled.View {
		t.Error("management does not use the new configuration")
	}
	if err := load(t, onSQLite(filepath.Join(t.TempDir(), "other.db")), nil); err != nil {
		t.Fatal(err)
	}
	if current(t).engine == second.engine {
		t.Error("another store got the same engine")
	}
	if second.gateway.Ready() {
		t.Error("the engine without a configuration is not closed")
	}
	// A request of the old configuration may still use the closed engine.
	var d gateway.Decision
	second.gateway.Check(context.Background(), &gateway.Request{
		Now: time.Now(), View: second.compiled.View, Keyspace: second.compiled.View.Keyspaces["shop"], Credential: "kg_live_00000000000000000000000000000000",
	}, &d)
	d.Done()
	if d.Reason == gateway.Allowed {
		t.Error("a closed engine accepts a request")
	}
}

func TestPlanWithTenantsCannotBeRemoved(t *testing.T) {
	db := filepath.Join(t.TempDir(), "keys.db")
	if err := load(t, onSQLite(db, &config.PlanConfig{Name: "free"}, &config.PlanConfig{Name: "gold"}), nil); err != nil {
		t.Fatal(err)
	}
	running := current(t)
	insertTenants(t, running, "gold", "acme", "zeta")

	wantError(t, load(t, onSQLite(db, &config.PlanConfig{Name: "free"}), nil), "2 tenants", "'gold'", "keyspace shop", "was gold")
	if current(t) != running || !running.Ready() {
		t.Error("the rejected configuration changed the running one")
	}
	if running.engine.View() != running.compiled.View {
		t.Error("management uses the rejected configuration")
	}

	// If another app can't start, the reload changes nothing, not even the tenants' plan.
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	successor := onSQLite(db, &config.PlanConfig{Name: "free"}, &config.PlanConfig{Name: "pro", Was: []string{"gold"}})
	for range 5 { // Caddy starts apps in random order, so several reloads cover both orders.
		err := load(t, successor, caddy.ModuleMap{"http": fmt.Appendf(nil, `{"servers":{"s":{"listen":[%q]}}}`, taken.Addr())})
		wantError(t, err, "address already in use")
		if held := plans(t, running); held["gold"] != 2 {
			t.Fatalf("a configuration that failed moved tenants: %v", held)
		}
		if running.engine.View() != running.compiled.View {
			t.Fatal("management uses the failed configuration")
		}
	}

	if err := load(t, successor, nil); err != nil {
		t.Fatal(err)
	}
	if ks := current(t).compiled.View.Keyspaces["shop"]; ks.Plans["gold"] != ks.Plans["pro"] {
		t.Error("tenants of the former plan are not checked by the new one")
	}
	testkit.Eventually(t, "the tenants have the new plan", func() bool { return plans(t, current(t))["pro"] == 2 })
}

func plans(t *testing.T, a *App) map[string]int64 {
	t.Helper()
	held, err := a.engine.Store().TenantsByPlan(context.Background(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	return held
}

func TestPeppersMustFitTheStore(t *testing.T) {
	db := filepath.Join(t.TempDir(), "keys.db")
	t.Setenv("KEYGATE_TEST_A", "the first pepper of this store")
	t.Setenv("KEYGATE_TEST_B", "the second pepper of this store")
	t.Setenv("KEYGATE_TEST_C", "a pepper that this store never saw")
	with := func(names ...string) error {
		app := onSQLite(db)
		for _, n := range names {
			app.Peppers = append(app.Peppers, "{env.KEYGATE_TEST_"+n+"}")
		}
		err := load(t, app, nil)
		stop(t)
		return err
	}
	for _, step := range []struct {
		peppers []string
		wantErr string
	}{
		{nil, ""},                  // The first start has no peppers.
		{[]string{"A"}, ""},        // The second start has the first pepper, "A".
		{nil, "has none"},          // A start without any pepper fails, because the store has digests that need the pepper "A".
		{[]string{"B"}, "not one"}, // A start with a new pepper fails if the former pepper is missing.
		{[]string{"A", "B"}, "never used"},
		{[]string{"B", "A"}, ""},
		{[]string{"B"}, ""}, // All keys are stored under the pepper "B" by now, so the pepper "A" is not needed any more.
		{[]string{"C", "B", "A"}, ""},
		{[]string{"A", "B"}, ""},
		{[]string{"A", "C"}, ""},
	} {
		err := with(step.peppers...)
		switch {
		case step.wantErr == "" && err != nil:
			t.Fatalf("%v: %v", step.peppers, err)
		case step.wantErr != "":
			wantError(t, err, "pepper", step.wantErr)
			for _, n := range []string{"A", "B", "C"} {
				if strings.Contains(err.Error(), os.Getenv("KEYGATE_TEST_"+n)) {
					t.Errorf("the error shows a pepper: %v", err)
				}
			}
		}
	}
}

func TestStoreThatCannotBeOpened(t *testing.T) {
	db := filepath.Join(t.TempDir(), "keys.db")
	if err := os.WriteFile(db, []byte(strings.Repeat("this is no database\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	wantError(t, load(t, onSQLite(db), nil), db)
	engines.Range(func(key, _ any) bool {
		t.Errorf("engine %v is still held", key)
		return true
	})
}

// TestCleanupOfHalfProvisioned checks that the Cleanup of an app whose provisioning failed releases only what the app had
// acquired before the failure.
func TestCleanupOfHalfProvisioned(t *testing.T) {
	if err := new(App).Cleanup(); err != nil {
		t.Errorf("an app that was never provisioned: %v", err)
	}
}

func TestHealth(t *testing.T) {
	port := freePort(t)
	server := fmt.Appendf(nil, `{"servers":{"s":{"listen":["127.0.0.1:%d"],"automatic_https":{"disable":true},
		"routes":[{"handle":[{"handler":"keygate_health"}]}]}}}`, port)
	if err := load(t, onSQLite(filepath.Join(t.TempDir(), "keys.db")), caddy.ModuleMap{"http": server}); err != nil {
		t.Fatal(err)
	}
	get := func() int {
		resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/readyz", port))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.Header.Get("Cache-Control") != "no-store" {
			t.Error("health may be cached")
		}
		return resp.StatusCode
	}
	if got := get(); got != http.StatusOK {
		t.Errorf("running: %d", got)
	}
	current(t).stopping.Store(true)
	if got := get(); got != http.StatusServiceUnavailable {
		t.Errorf("stopping: %d", got)
	}
}

func freePort(t testing.TB) int {
	t.Helper()
	port, err := testserver.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// The configuration hash is equal for gateways that differ only in node name and replica file, and
// changes with other settings.
func TestConfigHash(t *testing.T) {
	hash := func(node, replica string, staleness time.Duration) string {
		a := &App{Config: config.Config{Node: node, Store: &config.StoreConfig{Type: config.StorePostgres, DSN: "{env.DATABASE_URL}", Replica: replica, MaxStaleness: caddy.Duration(staleness)}}}
		return a.ConfigHash()
	}
	one := hash("n1", "/a.db", time.Hour)
	if one == "" || hash("n2", "/b.db", time.Hour) != one {
		t.Error("gateways with the same configuration have different hashes")
	}
	if hash("n1", "/a.db", time.Minute) == one {
		t.Error("another configuration has the same hash")
	}
}

// A gateway does not start with a version of Caddy that it was not tested with.
func TestUntestedCaddyDoesNotStart(t *testing.T) {
	saved := checkCaddy
	defer func() { checkCaddy = saved }()
	checkCaddy = func() error { return errors.New("another Caddy") }
	err := load(t, onSQLite(filepath.Join(t.TempDir(), "keys.db")), nil)
	wantError(t, err, "another Caddy")
}

// A configuration in JSON is rejected if the server drops the only header for keys.
func TestHeaderThatIsDropped(t *testing.T) {
	for _, header := range []string{"X_API_Key", "x.api.key", "X_API.Key"} {
		_, err := adapt(file("credentials {\nheader "+header+"\n}", "", siteWith("keygate\nreverse_proxy localhost:9000")))
		wantError(t, err, "Caddyfile:11", header, "servers { expected_")
		name := url.PathEscape(header)
		app := `{"store":{"path":"keys.db"},"keyspaces":{"a":{"credentials":[{"in":"header","name":"` + name + `"}]}}}`
		t.Chdir(t.TempDir())
		err = loadRaw(t, fmt.Sprintf(`{"admin":{"disabled":true,"config":{"persist":false}},"apps":{"keygate":%s,"http":{"servers":{"s":{"listen":["127.0.0.1:%d"],
			"automatic_https":{"disable":true},"routes":[{"handle":[{"handler":"keygate"}]}]}}}}}`, app, freePort(t)))
		wantError(t, err, "keyspaces.a.credentials", "expected_")
	}
}

// A gateway with a relative store path that starts in another directory logs that it created
// another database.
func TestRelativeStoreElsewhere(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	a, b := t.TempDir(), t.TempDir()
	run := func(dir string) string {
		t.Helper()
		t.Chdir(dir)
		log := filepath.Join(t.TempDir(), "log")
		config := fmt.Sprintf(`{"admin":{"disabled":true,"config":{"persist":false}},"logging":{"logs":{"default":{"level":"INFO",
			"writer":{"output":"file","filename":%q},"encoder":{"format":"keygate"}}}},"apps":{"keygate":{"store":{"path":"keys.db"}}}}`, log)
		if err := loadRaw(t, config); err != nil {
			t.Fatal(err)
		}
		stop(t)
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, "database was created") {
				out = append(out, line)
			}
		}
		return strings.Join(out, "")
	}
	real := func(dir string) string {
		dir, err := filepath.EvalSymlinks(dir)
		if err != nil {
			t.Fatal(err)
		}
		return filepath.Join(dir, "keys.db")
	}
	for i, step := range []struct {
		dir  string
		want []string
	}{
		{a, []string{`"info"`, real(a), "absolute"}},
		{a, nil},
		{b, []string{`"warn"`, real(a), real(b), "absolute"}},
		{b, nil},
		{a, nil},
	} {
		got := run(step.dir)
		if (len(step.want) == 0) != (got == "") {
			t.Errorf("step %d: %q", i, got)
		}
		for _, part := range step.want {
			if !strings.Contains(got, part) {
				t.Errorf("step %d: no %q in %q", i, part, got)
			}
		}
	}
	if err := os.Remove(real(a)); err != nil {
		t.Fatal(err)
	}
	if got := run(a); !strings.Contains(got, `"warn"`) || !strings.Contains(got, "gone") {
		t.Errorf("after the database was removed: %q", got)
	}
}
