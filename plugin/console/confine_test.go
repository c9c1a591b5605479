package console

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/auth"
	"github.com/keygate-dev/keygate/plugin/management/webhooks"
)

// rival is a second tenant that has a key, a webhook, a token and a session.
type rival struct {
	key     management.IssuedKey
	hook    webhooks.Issued
	token   auth.IssuedToken
	session string
	// delivery is an id that no delivery has. The response for it must equal the response for any other unknown id.
	delivery string
}

func (w *fixture) rival() rival {
	w.t.Helper()
	w.tenant("rival", "pro")
	r := rival{key: w.key("rival", "secret plans"), delivery: "dlv_01m81qc7aeer370dx6jd0dtyhr"}
	w.use(r.key, gateway.Allowed, 200)
	r.hook = testkit.Must[webhooks.Issued](w.t)(w.handler.webhooks.CreateWebhook(ctx, root, "default", webhooks.Fields{
		URL: management.Some("https://hooks.example.com/rival"), Tenant: management.Some("rival"),
	}))
	r.token = w.tokenWith(auth.TokenFields{Name: management.Some("rival's"), Scopes: management.Some([]string{"*"}), Tenant: management.Some("rival")})
	w.person("rival", "editor")
	list := testkit.Must[management.Page[auth.SessionRecord]](w.t)(auth.New(w.manager).Sessions(ctx, root, "default", auth.SessionFilter{}))
	r.session = list.Data[0].ID
	return r
}

// paths returns a route's path with the ids of the rival, and the same path with ids that do not
// exist.
func (r rival) paths(rt route) (method, theirs, unknown string) {
	method, pattern, _ := strings.Cut(rt.pattern, " ")
	ids := map[string][2]string{
		"/keys/{id}":     {r.key.ID, "key_01m81qc7aeer370dx6jd0dtyhr"},
		"/webhooks/{id}": {r.hook.ID, "whk_01m81qc7aeer370dx6jd0dtyhr"},
		"/tokens/{id}":   {r.token.ID, "tok_01m81qc7aeer370dx6jd0dtyhr"},
		"/sessions/{id}": {r.session, "ses_01m81qc7aeer370dx6jd0dtyhr"},
		"{slug}":         {"rival", "nobody"},
		"{delivery}":     {r.delivery, "dlv_01m81qc7aeer370dx6jd0dtyhq"},
	}
	theirs, unknown = strings.TrimSuffix(pattern, "{$}"), strings.TrimSuffix(pattern, "{$}")
	for what, id := range ids {
		before, _, _ := strings.Cut(what, "{")
		theirs = strings.ReplaceAll(theirs, what, before+id[0])
		unknown = strings.ReplaceAll(unknown, what, before+id[1])
	}
	return method, theirs, unknown
}

// acts returns the path with every value of {act}.
func acts(path string) []string {
	if !strings.Contains(path, "{act}") {
		return []string{path}
	}
	var out []string
	for _, act := range []string{"disable", "enable", "revoke", "delete", "reset-limits", "suspend", "activate", "rotate-secret", "nothing"} {
		out = append(out, strings.ReplaceAll(path, "{act}", act))
	}
	return out
}

// state returns all data that another tenant must neither see nor change, as JSON.
func (w *fixture) state() string {
	w.t.Helper()
	t := testkit.Must[management.TenantRecord](w.t)(w.manager.Tenant(ctx, root, "default", "rival"))
	keys := testkit.Must[management.Page[management.KeyRecord]](w.t)(w.manager.Keys(ctx, root, "default", management.KeyFilter{Tenant: "rival"}))
	hooks := testkit.Must[management.Page[webhooks.Record]](w.t)(w.handler.webhooks.Webhooks(ctx, root, "default", webhooks.Filter{Tenant: "rival"}))
	tokens := testkit.Must[management.Page[auth.TokenRecord]](w.t)(auth.New(w.manager).Tokens(ctx, root, "default", auth.TokenFilter{}))
	sessions := testkit.Must[management.Page[auth.SessionRecord]](w.t)(auth.New(w.manager).Sessions(ctx, root, "default", auth.SessionFilter{Tenant: "rival"}))
	for i := range sessions.Data {
		sessions.Data[i].LastUsedAt, sessions.Data[i].LastUsedIP = sessions.Data[i].CreatedAt, nil
	}
	for i := range tokens.Data {
		// The last use of a token is written asynchronously, so that the comparison must ignore
		// it.
		tokens.Data[i].LastUsedAt, tokens.Data[i].LastUsedIP = nil, nil
	}
	for i := range keys.Data {
		keys.Data[i].LastUsedAt, keys.Data[i].LastUsedIP = nil, nil
	}
	return jsonText([]any{t, keys.Data, hooks.Data, tokens.Data, sessions.Data})
}

// A tenant's session can neither see nor change anything of another tenant by its ids. Each
// response equals the response for ids that do not exist, and pages for operators answer 404.
func TestTenantIsConfined(t *testing.T) {
	for _, role := range []string{"viewer", "editor", "token"} {
		t.Run(role, func(t *testing.T) {
			w := newFixture(t)
			w.tenant("acme", "pro")
			w.key("acme", "mine")
			r := w.rival()
			b := w.browser()
			if role == "token" {
				token := w.tokenWith(auth.TokenFields{Name: management.Some("acme's"), Scopes: management.Some([]string{"*"}), Tenant: management.Some("acme")})
				b.post("/sign-in", "token", token.Token).to("/")
			} else {
				b.post("/portal", "code", w.link("acme", role)).to("/")
			}
			before := w.state()
			csrf := b.csrf()
			for _, rt := range routes {
				if rt.who == anybody || rt.pattern == "POST /sign-out" {
					continue
				}
				method, theirs, unknown := r.paths(rt)
				others := acts(unknown)
				for i, path := range acts(theirs) {
					send := func(path string) page {
						if method == "GET" {
							return b.get(path)
						}
						// The form has the fields of all forms.
						return b.post(path, "csrf", csrf, "once", "n", "tenant", "rival", "slug", "rival", "name", "x", "amount", "5", "direction", "add", "url", "https://hooks.example.com/x",
							"events", "*", "grace", "0", "scopes", "free", "with_scopes", "yes", "force", "yes", "plan", "pro", "expires", "never", "q", r.key.Key, "key", r.key.Key, "method", "GET", "path", "/x")
					}
					p := send(path)
					p.lacks("secret plans", r.key.KeyPrefix, r.hook.URL, "rival's", "Grace of rival")
					switch {
					case rt.who == operators:
						p.want(http.StatusNotFound).has("There is nothing at this address")
					case theirs != unknown:
						if other := send(others[i]); p.status < 400 || p.status != other.status || text(p.body) != text(other.body) {
							t.Errorf("%s is answered %d and %s %d", p.path, p.status, other.path, other.status)
						}
					}
				}
			}
			// Filters that name another tenant show nothing of that tenant.
			b.get("/keys?tenant=rival").want(http.StatusOK).has("mine").lacks("secret plans")
			b.get("/audit?tenant=rival").want(http.StatusOK).lacks("secret plans", r.key.ID)
			b.get("/audit?key="+r.key.ID).want(http.StatusOK).lacks("root", "secret plans")
			if after := w.state(); after != before {
				t.Fatalf("the rival's records were\n%s\nand are\n%s", before, after)
			}
			// A cursor that points to another tenant's key is rejected.
			for range 2 {
				w.key("rival", "more")
			}
			before = w.state()
			all := testkit.Must[management.Page[management.KeyRecord]](t)(w.manager.Keys(ctx, root, "default", management.KeyFilter{PageQuery: management.PageQuery{Limit: 1}}))
			b.get("/keys?cursor=" + *all.NextCursor).want(http.StatusUnprocessableEntity).has("is not a cursor of this list")
			if after := w.state(); after != before {
				t.Errorf("the rival's records were\n%s\nand are\n%s", before, after)
			}
		})
	}
}

// A tenant's person creates keys and webhooks only for that tenant, whatever tenant the form
// names.
func TestFormsCantNameAnotherTenant(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "pro")
	w.rival()
	b := w.person("acme", "editor")
	b.send("/keys/new", "once", b.get("/keys/new?tenant=rival").has("For acme").once(), "tenant", "rival", "name", "planted", "expires", "never").want(http.StatusOK)
	b.send("/webhooks/new", "once", b.get("/webhooks/new").once(), "tenant", "rival", "url", "https://hooks.example.com/a", "events", "*").want(http.StatusUnprocessableEntity).has("There is no such tenant")
	b.send("/webhooks/new", "once", b.get("/webhooks/new").once(), "url", "https://hooks.example.com/a", "events", "*").want(http.StatusOK).has("whsec_")
	keys := testkit.Must[management.Page[management.KeyRecord]](t)(w.manager.Keys(ctx, root, "default", management.KeyFilter{Search: "planted"}))
	if len(keys.Data) != 1 || keys.Data[0].Tenant != "acme" || keys.Data[0].CreatedBy != "Grace of acme" {
		t.Errorf("the key is %+v", keys.Data)
	}
	// A tenant's person may only tighten the limits of a key, as a token of one tenant may.
	id := keys.Data[0].ID
	form := []string{"name", "planted", "expires", "keep"}
	b.send("/keys/"+id+"/edit", append(form, "rate", "10/m")...).to("/keys/" + id + "?done=key-updated")
	b.send("/keys/"+id+"/edit", append(form, "rate", "20/m")...).want(http.StatusForbidden).has("Must not allow more than it does now", `value="20/m"`)
	b.get("/keys/" + id + "/reset-limits").want(http.StatusNotFound)
	b.send("/keys/" + id + "/reset-limits").want(http.StatusNotFound)
}

// A viewer can change nothing.
func TestViewerOnlyReads(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "pro")
	k := w.key("acme", "mine")
	b := w.person("acme", "viewer")
	b.get("/keys/"+k.ID).want(http.StatusOK).has("mine", "Audit log", "Last requests").lacks("Revoke", "Rotate")
	csrf := b.csrf()
	for _, rt := range routes {
		method, path, _ := strings.Cut(rt.pattern, " ")
		path = strings.NewReplacer("{id}", k.ID, "{act}", "revoke", "{slug}", "acme", "{delivery}", "x").Replace(path)
		if method != "POST" || rt.who == anybody || path == "/sign-out" || path == "/keys/search" || path == "/explain" {
			continue
		}
		want := http.StatusForbidden
		if rt.who == operators {
			want = http.StatusNotFound
		}
		if p := b.post(path, "csrf", csrf); p.status != want {
			t.Errorf("%s: %d, want %d", p.path, p.status, want)
		}
	}
	if got := testkit.Must[management.KeyRecord](t)(w.manager.Key(ctx, root, "default", k.ID)); got.Status != "active" {
		t.Errorf("the key is %s", got.Status)
	}
}

// No POST has an effect if another site sent it, or if its form belongs to another session or to
// none.
func TestCrossSitePosts(t *testing.T) {
	w := newFixture(t)
	w.rival()
	b, other := w.operator(), w.operator()
	mine, foreign := b.csrf(), other.csrf()
	r := w.rivalRecords()
	token := w.token("*").Token
	before := w.state()
	for _, rt := range routes {
		method, path, _ := r.paths(rt)
		if method != "POST" {
			continue
		}
		for _, path := range acts(path) {
			fields := []string{"token", token, "code", w.link("rival", "editor"), "name", "x", "amount", "5", "once", "n", "slug", "rival2", "url", "https://hooks.example.com/x", "events", "*", "grace", "0", "force", "yes"}
			for _, origin := range []string{"https://evil.example", "null", "http://127.0.0.1:1", w.server.URL + ".evil.example", "garbage"} {
				b.origin = origin
				b.post(path, append(fields, "csrf", mine)...).want(http.StatusForbidden).has("sent by another site")
			}
			b.origin = ""
			for _, site := range []string{"cross-site", "same-site"} {
				b.header.Set("Sec-Fetch-Site", site)
				b.post(path, append(fields, "csrf", mine)...).want(http.StatusForbidden)
			}
			b.header.Del("Sec-Fetch-Site")
			if rt.who == anybody {
				continue
			}
			for _, csrf := range []string{"", "x", foreign, mine[:len(mine)-2], strings.Repeat("A", len(mine))} {
				b.post(path, append(fields, "csrf", csrf)...).want(http.StatusForbidden).has("belongs to another session")
			}
		}
	}
	if after := w.state(); after != before {
		t.Errorf("the rival's records were\n%s\nand are\n%s", before, after)
	}
	b.get("/keys").want(http.StatusOK)
}

// rivalRecords returns the ids of the rival's records, for paths.
func (w *fixture) rivalRecords() (r rival) {
	keys := testkit.Must[management.Page[management.KeyRecord]](w.t)(w.manager.Keys(ctx, root, "default", management.KeyFilter{Tenant: "rival"}))
	hooks := testkit.Must[management.Page[webhooks.Record]](w.t)(w.handler.webhooks.Webhooks(ctx, root, "default", webhooks.Filter{Tenant: "rival"}))
	tokens := testkit.Must[management.Page[auth.TokenRecord]](w.t)(auth.New(w.manager).Tokens(ctx, root, "default", auth.TokenFilter{Tenant: "rival"}))
	sessions := testkit.Must[management.Page[auth.SessionRecord]](w.t)(auth.New(w.manager).Sessions(ctx, root, "default", auth.SessionFilter{Tenant: "rival"}))
	r.key.KeyRecord, r.hook.Record, r.token.TokenRecord, r.session = keys.Data[0], hooks.Data[0], tokens.Data[0], sessions.Data[0].ID
	r.delivery = "dlv_01m81qc7aeer370dx6jd0dtyhr"
	return r
}

// A cookie that was changed, or that belongs to another keyspace's session, does not sign a person in.
func TestCookies(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "pro")
	b := w.person("acme", "viewer")
	good := b.cookie().Value
	u := testkit.Must[*url.URL](t)(url.Parse(w.server.URL))
	for _, v := range []string{"", "x", good[:len(good)-1], good + "A", strings.ToLower(good), "kgs_" + strings.Repeat("A", 52), strings.Repeat("kgs_", 1000)} {
		b := w.browser()
		b.jar.SetCookies(u, []*http.Cookie{{Name: "keygate", Value: v, Path: "/"}})
		b.get("/keys").want(http.StatusSeeOther)
	}
	// The console of another keyspace must accept neither this keyspace's sessions nor its portal
	// links.
	testkit.Must[management.TenantRecord](t)(w.manager.CreateTenant(ctx, root, "other", "acme", management.TenantFields{}))
	link := testkit.Must[auth.IssuedPortalLink](t)(auth.New(w.manager).CreatePortalLink(ctx, root, "other", "acme", auth.PortalFields{Actor: management.Some("Eve")}))
	w.browser().post("/portal", "code", link.Secret).want(http.StatusUnauthorized)
	foreign := testkit.Must[auth.IssuedSession](t)(auth.New(w.manager).UsePortalLink(ctx, "other", link.Secret, "")) // The rejected attempt did not use up the link.
	eve := w.browser()
	eve.jar.SetCookies(u, []*http.Cookie{{Name: "keygate", Value: foreign.Secret, Path: "/"}})
	eve.get("/keys").want(http.StatusSeeOther)
	// A request with two session cookies is not signed in.
	twice := w.browser()
	twice.header.Set("Cookie", fmt.Sprintf("keygate=%s; keygate=%s", good, good))
	twice.get("/keys").want(http.StatusSeeOther)
}
