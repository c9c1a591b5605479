package console

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/auth"
)

func TestSignIn(t *testing.T) {
	w := newFixture(t)
	w.browser().get("/").to("/sign-in?to=%2F")
	w.browser().get("/keys?status=active").to("/sign-in?to=%2Fkeys%3Fstatus%3Dactive")
	w.browser().get("/nothing").to("/sign-in?to=%2Fnothing")

	revoked, ended := w.token("*"), w.tokenWith(auth.TokenFields{
		Name: management.Some("short"), Scopes: management.Some([]string{"*"}), ExpiresAt: management.Some(w.clock.Now().Add(time.Hour)),
	})
	if err := w.manager.RevokeToken(ctx, root, "default", revoked.ID); err != nil {
		t.Fatal(err)
	}
	foreign := testkit.Must[auth.IssuedToken](t)(auth.New(w.manager).CreateToken(ctx, root, "other", auth.TokenFields{
		Name: management.Some("x"), Scopes: management.Some([]string{"*"})}))
	w.clock.Advance(2 * time.Hour)
	good := w.token("keys:read").Token
	typo := good[:len(good)-1] + "0"
	if typo == good {
		typo = good[:len(good)-1] + "1"
	}
	for _, c := range []struct{ token, name, want string }{
		{"", "", "not a management token"}, {"kgm_short", "", "not a management token"}, {revoked.Token, "", "revoked"}, {ended.Token, "", "expired"},
		{foreign.Token, "", "no such management token"}, {typo, "", "not a management token"},
		{good, "Eve", "lacks the scope act"}, {good, strings.Repeat("x", 101), "at most 100"},
	} {
		b := w.browser()
		p := b.post("/sign-in", "token", c.token, "name", c.name, "to", "/keys")
		if p.status < 400 || len(p.header.Values("Set-Cookie")) > 0 {
			t.Errorf("%q is answered %d %v", c.want, p.status, p.header["Set-Cookie"])
		}
		p.has(c.want, "Sign in", `aria-invalid="true"`)
		if c.token != "" {
			p.lacks(c.token)
		}
		if c.name != "" {
			p.has(`value="` + c.name + `"`)
		}
		b.get("/keys").want(http.StatusSeeOther)
	}

	b := w.browser()
	p := b.post("/sign-in", "token", " "+w.token("*").Token+"\n", "name", "Ada", "to", "/keys?status=active").to("/keys?status=active")
	set := p.header.Values("Set-Cookie")
	if len(set) != 1 || !strings.HasPrefix(set[0], "keygate=kgs_") || !strings.HasSuffix(set[0], "; Path=/; HttpOnly; SameSite=Lax") {
		t.Errorf("the cookie is %q", set)
	}
	b.get("/keys").want(http.StatusOK).has("Ada")
	if got := w.audit(1); got[0] != "Ada session.started" {
		t.Errorf("the audit log has %v", got)
	}
	if secret := b.cookie().Value; strings.Contains(w.stored(), secret) || strings.Contains(w.stored(), secret[4:]) {
		t.Error("the session's secret is stored")
	}
	for _, to := range []string{"//evil.example", "https://evil.example/", `/\evil.example`, "javascript:alert(1)", "keys", "/\nx"} {
		w.browser().post("/sign-in", "token", good, "to", to).to("/")
	}
}

// Over HTTPS, the session's cookie has the prefix __Host-. Over HTTP, people can sign in only on
// this machine.
func TestCookieOverHTTPS(t *testing.T) {
	var https atomic.Bool
	w := newFixture(t, func(o *Options) { o.Secure = func(*http.Request) bool { return https.Load() } })
	token := w.token("*").Token
	send := func(host string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("POST", "/sign-in", strings.NewReader(url.Values{"token": {token}}.Encode()))
		r.Host = host
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		rec := httptest.NewRecorder()
		w.handler.ServeHTTP(rec, r)
		return rec
	}
	for host, want := range map[string]int{
		"keys.example.com": 403, "10.0.0.1:8080": 403, "localhost.example.com": 403, "localhost": 303, "127.0.0.1:8080": 303, "[::1]:80": 303, "app.localhost:80": 303,
	} {
		if rec := send(host); rec.Code != want {
			t.Errorf("%s in clear: %d, want %d", host, rec.Code, want)
		}
	}
	https.Store(true)
	rec := send("keys.example.com")
	if set := rec.Header().Get("Set-Cookie"); !strings.HasPrefix(set, "__Host-keygate=kgs_") || !strings.HasSuffix(set, "; Path=/; HttpOnly; Secure; SameSite=Lax") {
		t.Errorf("the cookie is %q", set)
	}
	// The console ignores a cookie without the prefix, which any subdomain could set.
	r := httptest.NewRequest("GET", "/keys", nil)
	r.AddCookie(&http.Cookie{Name: "keygate", Value: strings.Split(strings.TrimPrefix(rec.Header().Get("Set-Cookie"), "__Host-keygate="), ";")[0]})
	rec = httptest.NewRecorder()
	if w.handler.ServeHTTP(rec, r); rec.Code != http.StatusSeeOther {
		t.Errorf("a cookie without the prefix is answered %d", rec.Code)
	}
}

func TestSessionEnds(t *testing.T) {
	for name, end := range map[string]func(w *fixture, b *browser, token auth.IssuedToken){
		"signed out": func(w *fixture, b *browser, _ auth.IssuedToken) {
			p := b.send("/sign-out").want(http.StatusOK).has("signed out")
			if set := p.header.Get("Set-Cookie"); !strings.Contains(set, "Max-Age=0") {
				t.Errorf("the cookie stays: %q", set)
			}
		},
		"idle": func(w *fixture, _ *browser, _ auth.IssuedToken) { w.clock.Advance(auth.SessionIdle + time.Second) },
		"after twelve hours": func(w *fixture, b *browser, _ auth.IssuedToken) {
			// The session is in use all the time.
			for range 12*60/20 + 1 {
				w.clock.Advance(20 * time.Minute)
				b.get("/keys")
				// The last use is written asynchronously.
				testkit.Eventually(t, "the last use is written, or the session has ended", func() bool {
					list := testkit.Must[management.Page[auth.SessionRecord]](t)(auth.New(w.manager).Sessions(ctx, root, "default", auth.SessionFilter{}))
					s := list.Data[0]
					return !s.Active || w.clock.Now().Sub(s.LastUsedAt) < 10*time.Minute
				})
			}
		},
		"with its token": func(w *fixture, _ *browser, token auth.IssuedToken) {
			if err := w.manager.RevokeToken(ctx, root, "default", token.ID); err != nil {
				t.Fatal(err)
			}
		},
		"by an operator": func(w *fixture, b *browser, _ auth.IssuedToken) {
			list := testkit.Must[management.Page[auth.SessionRecord]](t)(auth.New(w.manager).Sessions(ctx, root, "default", auth.SessionFilter{}))
			other := w.operator()
			other.get("/sessions").want(http.StatusOK).has("ops", "you, here")
			other.send("/sessions/" + list.Data[0].ID + "/end").to("/sessions?done=session-ended")
			if got := w.audit(1); !strings.HasSuffix(got[0], " session.ended") {
				t.Errorf("the audit log has %v", got)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newFixture(t)
			token := w.token("*")
			b := w.browser()
			b.post("/sign-in", "token", token.Token).to("/")
			cookie := b.cookie()
			b.get("/keys").want(http.StatusOK)
			csrf := b.csrf()
			end(w, b, token)
			b.jar.SetCookies(testkit.Must[*url.URL](t)(url.Parse(w.server.URL)), []*http.Cookie{cookie})
			b.get("/keys").want(http.StatusSeeOther)
			b.post("/tenants/new", "csrf", csrf, "slug", "late").want(http.StatusUnauthorized).has("Your session has ended", "Sign in")
			if _, err := w.manager.Tenant(ctx, root, "default", "late"); err == nil {
				t.Error("an ended session changed something")
			}
		})
	}
}

func TestFailedSignInsAreCounted(t *testing.T) {
	left := 2
	w := newFixture(t, func(o *Options) {
		o.Failed = func(netip.Addr) (bool, time.Duration) { left--; return left >= 0, time.Minute }
	})
	other := newFixture(t).token("*").Token // The token has the right shape but is unknown in this store.
	for range 2 {
		w.browser().post("/sign-in", "token", other).want(http.StatusUnauthorized)
		w.browser().post("/sign-in", "token", "kgm_nonsense").want(http.StatusUnauthorized) // A text that is not a token does not count as a guess.
	}
	w.browser().post("/sign-in", "token", other).want(http.StatusTooManyRequests).has("Too many failed attempts")
	w.browser().post("/portal", "code", "kgp_unknown").want(http.StatusTooManyRequests)
	// A valid token signs in even after too many guesses from the same address.
	w.browser().post("/sign-in", "token", w.token("*").Token).to("/")
}

func TestPortal(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "pro")
	link := w.link("acme", "editor")
	if strings.Contains(w.stored(), link) || strings.Contains(w.stored(), link[4:]) {
		t.Error("the link's secret is stored")
	}
	// Fetching the page does not use up the link.
	for range 3 {
		w.browser().get("/portal").want(http.StatusOK).has("paste the whole link", `name="code"`)
	}
	var in atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		b := w.browser()
		wg.Go(func() {
			if p := b.post("/portal", "code", link); p.status == http.StatusSeeOther {
				in.Add(1)
				b.get("/").to("/keys")
				b.get("/keys").has("Grace of acme", "https://app.example.com/settings")
			} else {
				p.has("has been used or has expired").lacks(link)
			}
		})
	}
	wg.Wait()
	if in.Load() != 1 {
		t.Errorf("the link let %d in", in.Load())
	}
	if got := w.audit(2); !slices.Equal(got, []string{"Grace of acme session.started", "root portal.link_created"}) {
		t.Errorf("the audit log has %v", got)
	}
	whole := w.browser()
	whole.post("/portal", "code", "https://keys.example.com/portal#"+w.link("acme", "viewer")).to("/")
	whole.send("/sign-out").has("Go back to Keygate", "https://app.example.com/settings").lacks("Sign in again")

	late := w.link("acme", "viewer")
	w.clock.Advance(auth.PortalLife + time.Second)
	w.browser().post("/portal", "code", late).want(http.StatusUnauthorized)

	// The link and its sessions end with the token that issued the link.
	token := w.token("portal")
	issuer := testkit.Must[*auth.Grant](t)(auth.New(w.manager).CheckToken(ctx, token.Token, "")).Actor("")
	make := func() string {
		return testkit.Must[auth.IssuedPortalLink](t)(auth.New(w.manager).CreatePortalLink(ctx, issuer, "default", "acme", auth.PortalFields{Actor: management.Some("x")})).Secret
	}
	b, unused := w.browser(), make()
	b.post("/portal", "code", make()).to("/")
	b.get("/keys").want(http.StatusOK)
	if err := w.manager.RevokeToken(ctx, root, "default", token.ID); err != nil {
		t.Fatal(err)
	}
	b.get("/keys").want(http.StatusSeeOther)
	w.browser().post("/portal", "code", unused).want(http.StatusUnauthorized)
	// Sessions also end when their tenant is deleted.
	b = w.person("acme", "editor")
	if err := w.manager.DeleteTenant(ctx, root, "default", "acme", true, nil); err != nil {
		t.Fatal(err)
	}
	b.get("/keys").want(http.StatusSeeOther)
}

// Signing in again replaces the browser's session: the old cookie is no longer valid.
func TestSignInReplacesSession(t *testing.T) {
	w := newFixture(t)
	b := w.operator()
	before := b.cookie()
	b.post("/sign-in", "token", w.token("keys:read").Token).to("/")
	b.get("/tenants").want(http.StatusForbidden)
	b.jar.SetCookies(testkit.Must[*url.URL](t)(url.Parse(w.server.URL)), []*http.Cookie{before})
	b.get("/keys").want(http.StatusSeeOther)
}

// A portal link asks before it replaces the session of another person.
func TestPortalAsksBeforeItReplacesASession(t *testing.T) {
	w := newFixture(t, func(o *Options) { o.Identity = &Identity{Header: "Remote-User"} })
	w.tenant("acme", "pro")
	w.tenant("globex", "pro")
	link := func(tenant, name string) string {
		return testkit.Must[auth.IssuedPortalLink](t)(auth.New(w.manager).CreatePortalLink(ctx, root, "default", tenant, auth.PortalFields{Actor: management.Some(name)})).Secret
	}
	question := `name="replace"`
	b := w.operator()
	before, code := b.cookie(), link("acme", "Mallory <b>")
	p := b.post("/portal", "code", code).want(http.StatusOK).
		has("Sign in as Mallory &lt;b&gt;?", "You are signed in as <strong>ops</strong>", "<strong>acme</strong>", question, "Stay signed in as ops")
	if set := p.header.Values("Set-Cookie"); len(set) > 0 {
		t.Errorf("the question sets %v", set)
	}
	b.get("/tenants").want(http.StatusOK) // The browser still has the operator's session.
	// A form with no token, an invalid one or another session's does not confirm the replacement.
	stale := w.operator()
	stale.get("/keys")
	for _, csrf := range []string{"", "AAAA", stale.csrf()} {
		b.post("/portal", "code", code, "replace", "yes", "csrf", csrf).want(http.StatusOK).has(question)
	}
	b.get("/tenants").want(http.StatusOK)
	// The form of the page that asks contains a valid token, so it confirms the replacement of the session.
	b.post("/portal", "code", code)
	b.send("/portal", "code", code, "replace", "yes").to("/")
	b.get("/keys").want(http.StatusOK).has("Mallory")
	b.get("/tenants").want(http.StatusNotFound)
	old := w.browser()
	old.jar.SetCookies(testkit.Must[*url.URL](t)(url.Parse(w.server.URL)), []*http.Cookie{before})
	old.get("/keys").want(http.StatusSeeOther)

	// The console does not ask if the link is for the same person and tenant as the session. It asks if the name or the tenant
	// differs.
	b.post("/portal", "code", link("acme", "Mallory <b>")).to("/")
	b.post("/portal", "code", link("acme", "Ada")).want(http.StatusOK).has(question)
	b.post("/portal", "code", link("globex", "Mallory <b>")).want(http.StatusOK).has(question)
	// An invalid link shows no question.
	b.post("/portal", "code", code).want(http.StatusUnauthorized).lacks(question)
	// The console also asks a person whom the proxy has authenticated, even before a session has
	// begun.
	for _, began := range []bool{false, true} {
		b = w.browser()
		b.header = http.Header{"Remote-User": {"ada"}}
		if began {
			b.get("/keys").want(http.StatusOK)
		}
		b.post("/portal", "code", link("acme", "Mallory")).want(http.StatusOK).has(question, "You are signed in as <strong>ada</strong>")
		b.get("/tenants").want(http.StatusOK).has("ada")
	}
}

func TestIdentityHeader(t *testing.T) {
	w := newFixture(t, func(o *Options) {
		o.Identity = &Identity{Header: "Remote-User", Scopes: []string{"keys:read", "tokens:write", "tokens:read"}}
	})
	b := w.browser()
	b.get("/keys").want(http.StatusSeeOther)
	b.header.Set("Remote-User", "Ada")
	b.get("/keys").want(http.StatusOK).has("Ada")
	b.get("/keys").want(http.StatusOK)
	if got := w.audit(3); len(got) != 1 || got[0] != "Ada session.started" {
		t.Errorf("the audit log has %v", got)
	}
	b.get("/tenants").want(http.StatusForbidden).has("tenants:read")
	// A token that a person whom the proxy authenticated creates has no more scopes than the person's session.
	b.send("/tokens/new", "once", b.get("/tokens/new").once(), "name", "x", "scopes", "*", "expires", "30").want(http.StatusUnprocessableEntity).has("does not have itself")
	b.send("/tokens/new", "once", b.get("/tokens/new").once(), "name", "x", "scopes", "keys:read", "expires", "30").want(http.StatusOK).has("kgm_")
	// The session is valid only while the proxy names the same person.
	cookie := b.cookie()
	b.header.Set("Remote-User", "Eve")
	b.get("/keys").has("Eve")
	b.jar.SetCookies(testkit.Must[*url.URL](t)(url.Parse(w.server.URL)), []*http.Cookie{cookie})
	b.header.Del("Remote-User")
	b.get("/keys").want(http.StatusSeeOther)
	b.header["Remote-User"] = []string{"Ada", "Eve"}
	b.get("/keys").want(http.StatusSeeOther)

	plain := newFixture(t).browser()
	plain.header.Set("Remote-User", "Ada")
	plain.get("/keys").want(http.StatusSeeOther)
}

func TestScopes(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "pro")
	k := w.key("acme", "one")
	b := w.operator("keys:read")
	b.get("/").to("/keys")
	b.get("/keys").want(http.StatusOK).has("one").lacks("Create a key")
	b.get("/keys/"+k.ID).want(http.StatusOK).lacks("Revoke", "Audit log", "Usage")
	for _, path := range []string{"/keys/new", "/keys/" + k.ID + "/revoke", "/audit", "/overview", "/webhooks", "/tokens"} {
		b.get(path).want(http.StatusForbidden)
	}
	b.send("/keys/" + k.ID + "/revoke").want(http.StatusForbidden)
	if got := testkit.Must[management.KeyRecord](t)(w.manager.Key(ctx, root, "default", k.ID)); got.Status != "active" {
		t.Errorf("the key is %s", got.Status)
	}
	w.operator("events:write").get("/").want(http.StatusOK).has("Nothing to see")
}
