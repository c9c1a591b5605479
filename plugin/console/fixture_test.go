package console

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/internal/teststore"
	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/cluster"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/inspect"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/management/auth"
	"github.com/keygate-dev/keygate/plugin/management/webhooks"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
	"github.com/keygate-dev/keygate/plugin/store/sqlite"
	"github.com/keygate-dev/keygate/plugin/usage"
)

var (
	ctx = context.Background()
	// root is the actor that prepares the data of tests.
	root = management.Actor{Name: "root", Via: "admin"}
)

// fixture is a console over a real manager, store and gateway, served over HTTP.
type fixture struct {
	t       testing.TB
	dir     string
	store   *sqlite.Store
	gw      *cluster.Member
	view    *gateway.View
	manager *management.Manager
	tracker *usage.Tracker
	handler *Handler
	server  *httptest.Server
	log     testkit.Buffer
	status  inspect.Status

	clock testkit.Clock
}

// sealer implements the encryption that webhooks need, without security.
type sealer struct{}

func (sealer) Seal(plain []byte, purpose string) ([]byte, error) {
	out := []byte(purpose + ":")
	for _, b := range plain {
		out = append(out, b^0x5a)
	}
	return out, nil
}

func (sealer) Open(sealed []byte, purpose string) ([]byte, error) {
	out := []byte{}
	for _, b := range sealed[len(purpose)+1:] {
		out = append(out, b^0x5a)
	}
	return out, nil
}

// newFixture serves a console. Each change may alter the options first.
func newFixture(t testing.TB, change ...func(*Options)) *fixture {
	t.Helper()
	w := &fixture{t: t, dir: t.TempDir()}
	log := slog.New(slog.NewTextHandler(&w.log, nil))
	w.store = teststore.SQLite(t, filepath.Join(w.dir, "keygate.db"), log)
	w.tracker = usage.NewTracker("n1", log)
	w.gw = testkit.Must[*cluster.Member](t)(cluster.New(cluster.Options{Options: gateway.Options{
		Store: w.store, Logger: log, NewMeter: func(keyspace, tenant, key string) any { return w.tracker.Counter(keyspace, tenant, key) },
	}}))
	if err := w.gw.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := w.tracker.Start(ctx, w.store); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = w.tracker.Close(ctx)
		_ = w.gw.Close(ctx)
		_ = w.store.Close()
	})
	w.view = gateway.NewView(testkit.Must[*apikey.Hasher](t)(apikey.NewHasher()), space(t, "default", "kg_"), space(t, "other", "ot_"))
	w.manager = management.New(management.Config{
		Store: w.store, Engine: w.gw, View: func() *gateway.View { return w.view }, Now: w.clock.Now, Logger: log,
	})
	now := time.Now()
	w.status = inspect.Status{
		Node: "n1", Version: "v1", Limits: "local", Problems: []string{}, Store: inspect.StoreStatus{Kind: "sqlite", OK: true},
		Nodes: []inspect.NodeStatus{{Node: "n1", Self: true, Ready: true, LastContact: &now, ConfigHash: "abc"}},
	}
	requests := &usage.Log{Keep: 100, For: time.Hour, Clean: w.view.Keyspaces["default"].Grammar.Clean}
	opts := Options{
		Webhooks: webhooks.New(w.manager, func(string) webhooks.Settings { return webhooks.Settings{Sealer: sealer{}} }),
		Keyspace: "default", Verifier: requestChecker{w}, Logger: log, Curl: func(key string) string { return "curl -H 'Authorization: Bearer " + key + "' https://api.example.com/" },
		Status: func(context.Context) inspect.Status { return w.status },
		Usage: &usage.Service{
			Manager: w.manager, Store: w.store, CompleteUntil: w.tracker.CompleteUntil, Flush: w.tracker.Flush,
			Log: func(string) *usage.Log { return requests },
		},
	}
	for _, f := range change {
		f(&opts)
	}
	w.handler = testkit.Must[*Handler](t)(New(w.manager, opts))
	w.server = httptest.NewServer(w.handler)
	t.Cleanup(w.server.Close)
	return w
}

func space(t testing.TB, name, prefix string) *gateway.Keyspace {
	t.Helper()
	scopes := gateway.Scopes{Names: []string{"admin", "deployment", "free"}, Cumulative: true}
	ks := &gateway.Keyspace{
		Name: name, Scopes: scopes, DefaultPlan: "free", Plans: map[string]*gateway.Plan{},
		Grammar: testkit.Must[*apikey.Grammar](t)(apikey.NewGrammar([]apikey.Prefix{
			{Value: prefix + "live_", Environment: "live"}, {Value: prefix + "test_", Environment: "test"},
		}, apikey.Format{Length: 32, Checksum: apikey.CRC32}, nil)),
		Places: testkit.Must[*apikey.Places](t)(apikey.NewPlaces()),
	}
	add := func(p *gateway.Plan) {
		p.Cap = scopes.All()
		if p.Scopes != nil {
			p.Cap = scopes.Closure(p.Scopes)
		}
		ks.Plans[p.Name], ks.PlanOrder = p, append(ks.PlanOrder, p.Name)
	}
	add(&gateway.Plan{Name: "free", MaxKeys: 3, Scopes: []string{"free"}})
	add(&gateway.Plan{Name: "pro", Scopes: []string{"deployment"}, Limits: []*ratelimit.Policy{
		testkit.Must[*ratelimit.Policy](t)(ratelimit.ParseRate("300/m burst 60")), testkit.Must[*ratelimit.Policy](t)(ratelimit.ParseQuota("1000/day")), ratelimit.NewCredits(),
	}})
	return ks
}

// requestChecker checks keys with the fixture's gateway, without rules for paths.
type requestChecker struct{ w *fixture }

func (j requestChecker) Verify(context.Context, string, inspect.Request) (inspect.Result, error) {
	panic("the console must not spend anything")
}

func (j requestChecker) Explain(ctx context.Context, keyspace string, q inspect.Request) (inspect.Result, error) {
	var trace gateway.Trace
	r := gateway.Request{
		Now: time.Now(), View: j.w.view, Keyspace: j.w.view.Keyspaces[keyspace], Credential: q.Key, Addr: q.IP, Cost: 1, NoConcurrency: true, Trace: &trace,
	}
	if q.Key == "" {
		r.FindErr = apikey.ErrMissing
	}
	var d gateway.Decision
	j.w.gw.Check(ctx, &r, &d)
	defer d.Done()
	out := inspect.Result{Allowed: d.Allowed(), Reason: d.Reason.String(), Status: d.Reason.Status(), Code: d.Reason.String()}
	if d.Key != nil {
		out.Tenant, out.KeyID, out.KeyName = d.Tenant.Slug, d.Key.ID, d.Key.Name
	}
	return out, nil
}

func (w *fixture) tenant(slug, plan string) {
	w.t.Helper()
	testkit.Must[management.TenantRecord](w.t)(w.manager.CreateTenant(ctx, root, "default", slug, management.TenantFields{Plan: management.Some(plan), Credits: management.Some(int64(100))}))
}

func (w *fixture) key(tenant, name string) management.IssuedKey {
	w.t.Helper()
	return testkit.Must[management.IssuedKey](w.t)(w.manager.CreateKey(ctx, root, "default", tenant, management.KeyFields{Name: management.Some(name)}))
}

// use counts one request of a key.
func (w *fixture) use(k management.IssuedKey, reason gateway.Reason, status int) {
	c := w.tracker.Counter("default", k.Tenant, k.ID)
	c.Begin()
	c.Count(&usage.Request{
		Began: time.Now().Add(-3 * time.Millisecond), Reason: reason, Status: status, Credits: 2, Method: "GET", Path: "/v1/jobs",
		Addr: netip.MustParseAddr("192.0.2.7"), Log: &usage.Log{Keep: 100, For: time.Hour, Clean: func(s string) string { return s }},
	})
}

func (w *fixture) token(scopes ...string) auth.IssuedToken {
	w.t.Helper()
	return w.tokenWith(auth.TokenFields{Name: management.Some("ops"), Scopes: management.Some(scopes)})
}

func (w *fixture) tokenWith(in auth.TokenFields) auth.IssuedToken {
	w.t.Helper()
	return testkit.Must[auth.IssuedToken](w.t)(auth.New(w.manager).CreateToken(ctx, root, "default", in))
}

func (w *fixture) link(tenant, role string) string {
	w.t.Helper()
	l := testkit.Must[auth.IssuedPortalLink](w.t)(auth.New(w.manager).CreatePortalLink(ctx, root, "default", tenant, auth.PortalFields{
		Actor: management.Some("Grace of " + tenant), Role: management.Some(role), ReturnURL: management.Some("https://app.example.com/settings"),
	}))
	return l.Secret
}

// stored returns all bytes of the database files.
func (w *fixture) stored() string {
	w.t.Helper()
	var all strings.Builder
	for _, name := range testkit.Must[[]string](w.t)(filepath.Glob(filepath.Join(w.dir, "keygate.db*"))) {
		b, err := os.ReadFile(name)
		if err != nil && !os.IsNotExist(err) {
			w.t.Fatal(err)
		}
		all.Write(b)
	}
	return all.String()
}

// audit returns the actors and actions of the newest n audit events.
func (w *fixture) audit(n int) (out []string) {
	w.t.Helper()
	list := testkit.Must[management.Page[audit.Record]](w.t)(w.manager.Audit(ctx, root, "default", management.AuditFilter{PageQuery: management.PageQuery{Limit: n}}))
	for _, e := range list.Data {
		out = append(out, e.Actor+" "+e.Action)
	}
	return out
}

// browser is one person's HTTP client with its cookies. It does not follow redirects.
type browser struct {
	w      *fixture
	t      testing.TB
	client *http.Client
	jar    http.CookieJar
	// origin is the Origin header of forms; "" for the origin of the console.
	origin string
	header http.Header
	// token is the form token of the session whose cookie has the value tokenOf.
	token, tokenOf string
}

func (w *fixture) browser() *browser {
	jar := testkit.Must[*cookiejar.Jar](w.t)(cookiejar.New(nil))
	return &browser{w: w, t: w.t, jar: jar, header: http.Header{}, client: &http.Client{
		Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// page is a response of the console.
type page struct {
	t      testing.TB
	path   string
	status int
	header http.Header
	body   string
}

func (b *browser) do(r *http.Request) page {
	b.t.Helper()
	for name, v := range b.header {
		r.Header[name] = v
	}
	resp := testkit.Must[*http.Response](b.t)(b.client.Do(r))
	defer resp.Body.Close()
	body := testkit.Must[[]byte](b.t)(io.ReadAll(resp.Body))
	p := page{b.t, r.Method + " " + r.URL.RequestURI(), resp.StatusCode, resp.Header, string(body)}
	if p.status >= 500 && p.status != http.StatusServiceUnavailable {
		b.t.Errorf("%s: %d", p.path, p.status)
	}
	return p
}

func (b *browser) get(path string) page {
	b.t.Helper()
	return b.do(testkit.Must[*http.Request](b.t)(http.NewRequest("GET", b.w.server.URL+path, nil)))
}

// post sends a form. fields holds names and values in turn.
func (b *browser) post(path string, fields ...string) page {
	b.t.Helper()
	form := url.Values{}
	for i := 0; i < len(fields); i += 2 {
		form.Add(fields[i], fields[i+1])
	}
	r := testkit.Must[*http.Request](b.t)(http.NewRequest("POST", b.w.server.URL+path, strings.NewReader(form.Encode())))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Origin", b.w.server.URL)
	if b.origin != "" {
		r.Header.Set("Origin", b.origin)
	}
	return b.do(r)
}

var (
	csrfValue = regexp.MustCompile(`name="csrf" value="([^"]+)"`)
	onceValue = regexp.MustCompile(`name="once" value="([^"]+)"`)
)

// csrf returns the form token of the session.
func (b *browser) csrf() string {
	b.t.Helper()
	if c := b.jar.Cookies(testkit.Must[*url.URL](b.t)(url.Parse(b.w.server.URL))); len(c) == 1 && b.tokenOf == c[0].Value {
		return b.token
	}
	m := csrfValue.FindStringSubmatch(b.get("/nothing-here").body)
	if m == nil {
		b.t.Fatal("no page has a form: sign a person in first")
	}
	b.token, b.tokenOf = m[1], b.cookie().Value
	return m[1]
}

// send sends a form with the form token of the session.
func (b *browser) send(path string, fields ...string) page {
	b.t.Helper()
	return b.post(path, append([]string{"csrf", b.csrf()}, fields...)...)
}

func (p page) want(status int) page {
	p.t.Helper()
	if p.status != status {
		p.t.Fatalf("%s: %d, want %d\n%s", p.path, p.status, status, text(p.body))
	}
	return p
}

// to checks that the response redirects to path.
func (p page) to(path string) page {
	p.t.Helper()
	if p.want(http.StatusSeeOther); p.header.Get("Location") != path {
		p.t.Fatalf("%s redirects to %s, want %s", p.path, p.header.Get("Location"), path)
	}
	return p
}

// has checks that the page contains each of what.
func (p page) has(what ...string) page {
	p.t.Helper()
	for _, s := range what {
		if !strings.Contains(text(p.body), s) && !strings.Contains(p.body, s) {
			p.t.Errorf("%s does not hold %q:\n%s", p.path, s, text(p.body))
		}
	}
	return p
}

func (p page) lacks(what ...string) page {
	p.t.Helper()
	for _, s := range what {
		if strings.Contains(p.body, s) || strings.Contains(text(p.body), s) {
			p.t.Errorf("%s holds %q", p.path, s)
		}
	}
	return p
}

func (p page) once() string {
	p.t.Helper()
	m := onceValue.FindStringSubmatch(p.body)
	if m == nil {
		p.t.Fatalf("%s has no form with a single-use number", p.path)
	}
	return m[1]
}

var tags = regexp.MustCompile(`(?s)<head>.*?</head>|<[^>]*>`)

// text returns the text of a page without its elements.
func text(body string) string {
	s := tags.ReplaceAllString(body, " ")
	s = strings.NewReplacer("&#39;", "'", "&#34;", `"`, "&amp;", "&", "&lt;", "<", "&gt;", ">", "\u202f", "").Replace(s)
	return strings.Join(strings.Fields(s), " ")
}

// operator returns a browser that is signed in with a token with these scopes. Without scopes, the
// token has all.
func (w *fixture) operator(scopes ...string) *browser {
	w.t.Helper()
	if len(scopes) == 0 {
		scopes = []string{"*"}
	}
	b := w.browser()
	b.post("/sign-in", "token", w.token(scopes...).Token).to("/")
	return b
}

// person returns a browser that a portal link has signed in as a person of the tenant.
func (w *fixture) person(tenant, role string) *browser {
	w.t.Helper()
	b := w.browser()
	b.post("/portal", "code", w.link(tenant, role)).to("/")
	return b
}

// cookie returns the session's cookie.
func (b *browser) cookie() *http.Cookie {
	b.t.Helper()
	u := testkit.Must[*url.URL](b.t)(url.Parse(b.w.server.URL))
	cookies := b.jar.Cookies(u)
	if len(cookies) != 1 {
		b.t.Fatalf("there are %d cookies", len(cookies))
	}
	return cookies[0]
}
