package e2e

import (
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// consolePathConfig is a configuration with a console under a path of the API's site.
const consolePathConfig = `{
	admin {$KEYGATE_ADMIN}
	servers {
		trusted_proxies static 127.0.0.1/32
	}
	keygate {
		store sqlite {$KEYGATE_DB}
		prefix shop_live_ live
		scopes admin > free
		plan free {
			max_keys 2
			scopes free
		}
		plan pro
		default_plan free
	}
}
{$KEYGATE_LISTEN} {
	log
	keygate_api
	keygate_console {
		path  /console
		title "The Shop"
		color 3d5afe
	}
	handle_path /inner/* {
		keygate_console {
			identity_header Remote-User keys:read
		}
	}
	handle {
		keygate {
			public /console*
		}
		reverse_proxy {$KEYGATE_UPSTREAM}
	}
}
`

// visitor is an HTTP client that uses the console as a browser does.
type visitor struct {
	*gateway
	t *testing.T
	// at is the URL of the console's site. If at is "", the visitor uses the site of the API.
	at     string
	cookie string
	header []string
}

func (v *visitor) get(path string) *answer {
	v.t.Helper()
	return v.ask("GET", path, "", append(v.header, "Cookie", v.cookie)...)
}

// ask sends a request to the site of the console.
func (v *visitor) ask(method, path, body string, header ...string) *answer {
	v.t.Helper()
	if v.at == "" {
		return v.send(v.t, method, path, body, header...)
	}
	r, _ := v.request(v.t, method, path, body, header...)
	at, err := url.Parse(v.at)
	if err != nil {
		v.t.Fatal(err)
	}
	r.URL.Host, r.Host = at.Host, at.Host
	resp, err := v.client.Do(r)
	if err != nil {
		v.t.Fatal(err)
	}
	return v.read(v.t, resp, "")
}

func (v *visitor) post(path string, form url.Values) *answer {
	v.t.Helper()
	origin := v.site
	if v.at != "" {
		origin = v.at
	}
	if slices.Contains(v.header, "https") {
		origin = "https" + strings.TrimPrefix(origin, "http")
	}
	header := append([]string{"Cookie", v.cookie, "Content-Type", "application/x-www-form-urlencoded", "Origin", origin}, v.header...)
	a := v.ask("POST", path, form.Encode(), header...)
	if set := a.header.Get("Set-Cookie"); set != "" {
		v.cookie, _, _ = strings.Cut(set, ";")
		_, secret, _ := strings.Cut(v.cookie, "=")
		v.keep(secret)
	}
	return a
}

var (
	formToken  = regexp.MustCompile(`name="csrf" value="([^"]+)"`)
	formNumber = regexp.MustCompile(`name="once" value="([^"]+)"`)
	shownOnce  = regexp.MustCompile(`<code id="secret"[^>]*>([^<]+)</code>`)
)

// fill loads a page, fills in its form and sends the form.
func (v *visitor) fill(path string, fields ...string) *answer {
	v.t.Helper()
	page := v.get(path).want(http.StatusOK)
	form := url.Values{}
	for name, in := range map[string]*regexp.Regexp{"csrf": formToken, "once": formNumber} {
		if m := in.FindStringSubmatch(page.body); m != nil {
			form.Set(name, m[1])
		}
	}
	for i := 0; i < len(fields); i += 2 {
		form.Add(fields[i], fields[i+1])
	}
	return v.post(path, form)
}

// TestConsoleOverHTTP runs the real binary. A tenant's person signs in with a portal link, creates a key,
// uses it and revokes it. The log must contain no secret, which is checked when the test ends.
func TestConsoleOverHTTP(t *testing.T) {
	up := newUpstream(t)
	g := start(t, written(t, consolePathConfig), up)
	for _, slug := range []string{"acme", "rival"} {
		g.api(t, "POST", "/v1/tenants", record{"slug": slug}).want(http.StatusCreated)
	}
	theirs := g.api(t, "POST", "/v1/tenants/rival/keys", record{"name": "theirs"}).want(http.StatusCreated).json()
	g.keep(theirs["key"].(string))
	link := g.api(t, "POST", "/v1/tenants/acme/portal", record{"actor": "Ada", "role": "editor", "return_url": "https://shop.example.com/"}).want(http.StatusCreated).json()
	code, ok := strings.CutPrefix(link["url"].(string), g.site+"/console/portal#")
	if !ok {
		t.Fatalf("the link is %v", link["url"])
	}
	g.keep(code)

	v := &visitor{gateway: g, t: t}
	page := v.get("/console/portal").want(http.StatusOK)
	if !strings.Contains(page.body, "The Shop") || page.reached != nil {
		t.Errorf("the console's page is %s", page.body)
	}
	if a := v.post("/console/portal", url.Values{"code": {code}}); a.want(http.StatusSeeOther).header.Get("Location") != "/console/" || !strings.HasPrefix(v.cookie, "keygate=") {
		t.Fatalf("entering leads to %v with %q", a.header, v.cookie)
	}
	(&visitor{gateway: g, t: t}).post("/console/portal", url.Values{"code": {code}}).want(http.StatusUnauthorized)

	made := v.fill("/console/keys/new", "name", "CI", "expires", "90", "with_scopes", "yes", "scopes", "free").want(http.StatusOK)
	m := shownOnce.FindStringSubmatch(made.body)
	if m == nil {
		t.Fatalf("no key is shown: %s", made.body)
	}
	g.keep(m[1])
	if !strings.Contains(made.body, "curl -H &#39;Authorization: Bearer "+m[1]+"&#39; "+g.site+"/") {
		t.Errorf("the curl is not there: %s", made.body)
	}
	used := g.send(t, "GET", "/orders", "", "Authorization", "Bearer "+m[1]).passed()
	id := used.reached.header.Get("X-Key-Id")
	if used.reached.header.Get("X-Tenant-Id") != "acme" || id == "" {
		t.Fatalf("the upstream got the headers %v", used.reached.header)
	}
	v.fill("/console/keys/new", "name", "over the cap", "with_scopes", "yes", "scopes", "admin").want(http.StatusUnprocessableEntity)
	v.fill("/console/keys/new", "name", "two").want(http.StatusOK)
	v.fill("/console/keys/new", "name", "three").want(http.StatusConflict)

	for _, path := range []string{"/console/keys/" + theirs["id"].(string), "/console/tenants", "/console/tenants/acme", "/console/overview", "/console/tokens", "/console/audit/chain"} {
		v.get(path).want(http.StatusNotFound)
	}
	g.restart()
	// The session survives a restart, and a revocation in the session applies from the next request on.
	if a := v.fill("/console/keys/" + id + "/revoke"); a.want(http.StatusSeeOther).header.Get("Location") != "/console/keys/"+id+"?done=revoked" {
		t.Errorf("revoking leads to %v", a.header)
	}
	g.send(t, "GET", "/orders", "", "Authorization", "Bearer "+m[1]).rejected(http.StatusUnauthorized)
	events := g.api(t, "GET", "/v1/audit?key="+id, nil).want(http.StatusOK).body
	for _, want := range []string{`"actor":"Ada"`, `"via":"console"`, `"action":"key.revoked"`} {
		if !strings.Contains(events, want) {
			t.Errorf("the audit lacks %s: %s", want, events)
		}
	}
	// Paths outside of the console's path belong to the API.
	g.send(t, "GET", "/consoles", "").passed()
	g.send(t, "GET", "/", "").rejected(http.StatusUnauthorized)
}

// TestConsoleOperatorOverHTTP checks that operators sign in with a token. Behind a trusted proxy that
// serves HTTPS, the session cookie must belong only to the console's host.
func TestConsoleOperatorOverHTTP(t *testing.T) {
	g := start(t, written(t, consolePathConfig), newUpstream(t))
	token := g.api(t, "POST", "/v1/tokens", record{"name": "ops", "scopes": []string{"*"}}).want(http.StatusCreated).json()["token"].(string)
	g.keep(token)
	v := &visitor{gateway: g, t: t}
	v.post("/console/sign-in", url.Values{"token": {token[:len(token)-1]}}).want(http.StatusUnauthorized)
	v.post("/console/sign-in", url.Values{"token": {token}, "name": {"Ada"}}).want(http.StatusSeeOther)
	if a := v.get("/console/tenants").want(http.StatusOK); !strings.Contains(a.body, "Ada") || !strings.Contains(a.header.Get("Content-Security-Policy"), "default-src 'none'") {
		t.Errorf("the page is %v %s", a.header, a.body)
	}
	evil := &visitor{gateway: g, t: t, cookie: v.cookie, header: []string{"Sec-Fetch-Site", "cross-site"}}
	evil.fill("/console/tenants/new", "slug", "planted").want(http.StatusForbidden)
	g.api(t, "GET", "/v1/tenants/planted", nil).want(http.StatusNotFound)

	behind := &visitor{gateway: g, t: t, header: []string{"X-Forwarded-Proto", "https"}}
	if a := behind.post("/console/sign-in", url.Values{"token": {token}}); !strings.HasPrefix(a.header.Get("Set-Cookie"), "__Host-keygate=") || !strings.Contains(a.header.Get("Set-Cookie"), "; Secure") {
		t.Errorf("the cookie is %q", a.header.Get("Set-Cookie"))
	}
	behind.get("/console/keys").want(http.StatusOK)

	// In a handle_path block, the console signs a person in by the identity header of a trusted proxy.
	inner := &visitor{gateway: g, t: t, header: []string{"Remote-User", "Grace"}}
	a := inner.get("/inner/keys").want(http.StatusOK)
	if !strings.Contains(a.body, "Grace") || !strings.Contains(a.body, `href="/inner/keys"`) || !strings.Contains(a.body, `src="/inner/assets/`) {
		t.Errorf("the page is %s", a.body)
	}
	inner.header = nil
	inner.get("/inner/keys").want(http.StatusSeeOther)
}
