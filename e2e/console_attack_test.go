package e2e

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/keygate-dev/keygate/e2e/browser"
	"github.com/keygate-dev/keygate/internal/testkit"
)

// TestConsoleAgainstOtherSites opens a page of another site in a real browser. The page must neither read
// the console of a signed-in person nor change anything.
func TestConsoleAgainstOtherSites(t *testing.T) {
	t.Parallel()
	d := startConsole(t)
	d.tenant(t, "acme", record{"plan": "pro"})
	k := d.key(t, "acme", record{"name": "wanted"})
	tab := d.operator(t, browser.Desktop)
	tab.Go("/keys/" + k.id + "/revoke")
	form := tab.Attribute(`form[action$="/revoke"] input[name=csrf]`, "value")

	// The attacking site even knows the form's token. If the site is on another host, the browser sends no
	// cookie. If the site is on another port of the same host, the browser sends the cookie.
	for _, host := range []string{"localhost", "127.0.0.1"} {
		script := fmt.Sprintf(`
			const there = %q;
			const say = (what) => { const p = document.createElement('p'); p.textContent = what; document.body.append(p); };
			(async () => {
				for (const path of ['/keys', '/assets/']) {
					try { say('read ' + (await (await fetch(there + path, {credentials: 'include'})).text()).length); } catch { say('not read'); }
				}
				try { await fetch(there + '/keys/%s/revoke', {method: 'POST', mode: 'no-cors', credentials: 'include', body: new URLSearchParams({csrf: %q})}); } catch {}
				const frame = document.createElement('iframe');
				frame.src = there + '/keys';
				frame.onload = () => { let seen; try { seen = frame.contentDocument.body.innerText } catch { seen = null } say(seen ? 'framed' : 'not framed'); say('tried'); };
				document.body.append(frame);
			})();`, d.url, k.id, form)
		evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/evil.js":
				w.Header().Set("Content-Type", "text/javascript")
				fmt.Fprint(w, script)
			case "/":
				w.Header().Set("Content-Type", "text/html")
				fmt.Fprintf(w, `<!doctype html><html lang="en"><title>Evil</title><h1>Evil</h1><form method="post" action="%s/keys/%s/revoke"><input type="hidden" name="csrf" value="%s"><button>Win a prize</button></form><script src="/evil.js"></script>`, d.url, k.id, form)
			}
		}))
		t.Cleanup(evil.Close)
		tab.MayLeave()
		tab.Ignore()
		tab.Go(strings.Replace(evil.URL, "127.0.0.1", host, 1) + "/")
		tab.Has("tried")
		if tab.Says("framed") && !tab.Says("not framed") || !tab.Says("not read") {
			t.Errorf("a page of %s can read the console: %s", host, tab.Text("body"))
		}
		tab.Follow("button=Win a prize", http.StatusForbidden, http.StatusUnauthorized)
		if status := d.keyStatus(t, k.id); status != "active" {
			t.Fatalf("another site (%s) changed the key's status to %s", host, status)
		}
	}
	// The same form has an effect when the console's own page sends it.
	tab = d.operator(t, browser.Desktop)
	tab.Go("/keys/" + k.id + "/revoke")
	tab.Follow("button=Revoke permanently")
	if status := d.keyStatus(t, k.id); status != "revoked" {
		t.Errorf("the key is %s", status)
	}
}

// keyStatus returns a key's status.
func (d *consoleSite) keyStatus(t testing.TB, id string) string {
	t.Helper()
	return d.manage(t, "GET", "/v1/keys/"+id, nil).want(http.StatusOK).json().text("status")
}

// TestConsoleRawRequests sends requests that no browser sends. They must cause no session fixation, no
// redirects to other sites and no changes, and must put no keys into the log.
func TestConsoleRawRequests(t *testing.T) {
	t.Parallel()
	d := startConsole(t)
	d.tenant(t, "acme", record{"plan": "pro"})
	k := d.key(t, "acme", nil)
	signIn := func(header ...string) *answer {
		header = append([]string{"Origin", d.url}, header...)
		return d.fetch(t, "POST", "/sign-in", url.Values{"token": {d.token}}.Encode(), header...).want(http.StatusSeeOther)
	}
	cookieOf := func(a *answer) string {
		set := a.one("Set-Cookie")
		for _, want := range []string{"; Path=/", "; HttpOnly", "; SameSite=Lax"} {
			if !strings.Contains(set, want) {
				t.Errorf("the cookie lacks %q", want)
			}
		}
		cookie, _, _ := strings.Cut(set, ";")
		_, secret, _ := strings.Cut(cookie, "=")
		d.keep(secret)
		return cookie
	}
	cookie := cookieOf(signIn())

	t.Run("fixation", func(t *testing.T) {
		planted := "keygate=kgs_" + strings.Repeat("A", 52)
		d.fetch(t, "GET", "/keys", "", "Cookie", planted).want(http.StatusSeeOther)
		if got := cookieOf(signIn("Cookie", planted)); got == planted {
			t.Error("the console accepted a planted session")
		}
		d.fetch(t, "GET", "/keys", "", "Cookie", planted).want(http.StatusSeeOther)
		// Two cookies with the session's name count as none, because another host of the domain may have set one
		// of them.
		d.fetch(t, "GET", "/keys", "", "Cookie", planted+"; "+cookie).want(http.StatusSeeOther)
	})
	t.Run("headers", func(t *testing.T) {
		for path, status := range map[string]int{"/sign-in": 200, "/keys": 200, "/nowhere": 404, "/keys/" + k.id: 200, "/": 303} {
			a := d.fetch(t, "GET", path, "", "Cookie", cookie, "Accept-Encoding", "gzip").want(status)
			for name, want := range map[string]string{"Cache-Control": "no-store", "X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin"} {
				if got := a.one(name); got != want {
					t.Errorf("%s: %s is %q", path, name, got)
				}
			}
			csp := a.one("Content-Security-Policy")
			if !strings.Contains(csp, "default-src 'none'") || !strings.Contains(csp, "frame-ancestors 'none'") || strings.Contains(csp, "unsafe") || strings.Contains(csp, "*") {
				t.Errorf("%s: the policy is %q", path, csp)
			}
			if a.header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%s may be read by other sites", path)
			}
		}
	})
	t.Run("redirects", func(t *testing.T) {
		for _, to := range []string{"https://evil.example/", "//evil.example/", `/\evil.example`, `\\evil.example`, "/%0d%0aSet-Cookie:%20x=y", "/\r\nSet-Cookie: x=y", "javascript:alert(1)", "/..//evil.example", "///evil.example", "/\t/evil.example", "http:evil.example"} {
			a := d.fetch(t, "POST", "/sign-in", url.Values{"token": {d.token}, "to": {to}}.Encode(), "Origin", d.url).want(http.StatusSeeOther)
			location := a.one("Location")
			u, err := url.Parse(d.url)
			if err != nil {
				t.Fatal(err)
			}
			next, err := u.Parse(location)
			if err != nil || next.Host != u.Host || next.Scheme != "http" || strings.HasPrefix(next.Path, "//") || strings.ContainsAny(location, "\r\n\t\\") {
				t.Errorf("%q leads to %q", to, location)
			}
			if len(a.header.Values("Set-Cookie")) != 1 {
				t.Errorf("%q sets %q", to, a.header.Values("Set-Cookie"))
			}
		}
		for _, back := range []string{"javascript:alert(1)", "data:text/html,x", "//evil.example", "https://user:pass@evil.example/", "vbscript:x", " https://evil.example", "https:evil", "https://"} {
			d.manage(t, "POST", "/v1/tenants/acme/portal", record{"actor": "x", "return_url": back}).want(http.StatusUnprocessableEntity)
		}
	})
	t.Run("forms", func(t *testing.T) {
		for _, body := range []string{"", "csrf=", "csrf=%00", "csrf=" + strings.Repeat("A", 43), strings.Repeat("a=b&", 1<<18)} {
			a := d.fetch(t, "POST", "/keys/"+k.id+"/revoke", body, "Cookie", cookie, "Origin", d.url)
			if a.status != http.StatusForbidden && a.status != http.StatusBadRequest {
				t.Errorf("a form %.20q is answered %d", body, a.status)
			}
		}
		for _, method := range []string{"PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"} {
			if a := d.fetch(t, method, "/keys/"+k.id, "", "Cookie", cookie); a.status < 400 || a.status >= 500 {
				t.Errorf("%s is answered %d", method, a.status)
			}
		}
		if a := d.fetch(t, "HEAD", "/keys", "", "Cookie", cookie).want(http.StatusOK); a.body != "" {
			t.Error("HEAD has a body")
		}
		// The console ignores headers that name another method.
		d.fetch(t, "GET", "/keys/"+k.id+"/revoke", "", "Cookie", cookie, "X-HTTP-Method-Override", "POST").want(http.StatusOK)
		if status := d.keyStatus(t, k.id); status != "active" {
			t.Errorf("the key is %s", status)
		}
	})
	t.Run("log", func(t *testing.T) {
		// A key in a wrong place of a request must not appear in the log. The test searches the log at its end.
		q := url.QueryEscape(k.full)
		d.fetch(t, "GET", "/keys?q="+q, "", "Cookie", cookie)
		d.fetch(t, "GET", "/explain?path="+q, "", "Cookie", cookie)
		d.fetch(t, "GET", "/keys/"+k.full, "", "Cookie", cookie, "Referer", d.url+"/?k="+q)
		d.fetch(t, "GET", "/sign-in?to=/"+q, "", "X-Whatever", k.full)
		if a := d.fetch(t, "GET", "/keys/"+k.full+"?q="+q, ""); strings.Contains(a.header.Get("Location"), k.full) {
			t.Error("signing in leads back to a full key")
		}
		d.fetch(t, "GET", "/sign-in?token="+d.token, "")
		d.fetch(t, "GET", "/"+d.token, "", "Cookie", cookie)
		d.fetch(t, "GET", "/keys?q="+d.token, "", "Cookie", cookie)
		if a := d.fetch(t, "GET", "/keys?q="+q, "", "Cookie", cookie); strings.Contains(a.body, k.full[:20]) {
			t.Error("a page shows a full key that was in its URL")
		}
	})
	t.Run("guesses", func(t *testing.T) {
		limited := 0
		for i := range 200 {
			form := url.Values{"code": {fmt.Sprintf("kgp_%052d", i)}}
			if a := d.fetch(t, "POST", "/portal", form.Encode(), "Origin", d.url); a.status == http.StatusTooManyRequests {
				if a.number("Retry-After") < 1 {
					t.Error("the response has no Retry-After")
				}
				limited++
			} else {
				a.want(http.StatusUnauthorized)
			}
		}
		if limited == 0 {
			t.Error("the number of guesses is not limited")
		}
		// A valid portal link works even after too many guesses from the same address.
		_, secret, _ := strings.Cut(d.link(t, "acme", nil), "#")
		d.keep(secret)
		cookieOf(d.fetch(t, "POST", "/portal", url.Values{"code": {secret}}.Encode(), "Origin", d.url).want(http.StatusSeeOther))
	})
}

// TestConsoleHTTPS checks the session cookie in a browser. Over HTTPS, the cookie belongs only to the
// console's host. Over HTTP, people can sign in only from the gateway's own machine.
func TestConsoleHTTPS(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	config := strings.Replace(consoleConfig, "{$KEYGATE_CONSOLE} {", "https://localhost:"+port+" {\n\ttls internal\n\tkeygate_console\n}\n{$KEYGATE_CONSOLE} {", 1)
	config = strings.Replace(config, "admin {$KEYGATE_ADMIN}", "admin {$KEYGATE_ADMIN}\n\tskip_install_trust\n\tauto_https disable_redirects", 1)
	d := startConsoleOn(t, config)
	d.tenant(t, "acme", record{"plan": "pro"})
	d.client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{InsecureSkipVerify: true} // The client skips the verification, because no system trusts the gateway's own certificate authority.
	plain := d.url
	for _, host := range []string{"keys.example.com", "192.0.2.1", "127.0.0.1.evil.example"} {
		if a := d.fetch(t, "POST", "/sign-in", url.Values{"token": {d.token}}.Encode(), "Host", host); a.header.Get("Set-Cookie") != "" {
			t.Errorf("signing in to http://%s works", host)
		}
	}
	d.url = "https://localhost:" + port
	testkit.Eventually(t, "the certificate", func() bool {
		resp, err := d.client.Get(d.url + "/sign-in")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	tab := d.operator(t, browser.Desktop.Insecure())
	tab.Go("/keys")
	cookies := tab.Cookies()
	if len(cookies) != 1 {
		t.Fatalf("%d cookies", len(cookies))
	}
	c := cookies[0]
	d.keep(c.Value)
	if c.Name != "__Host-keygate" || !c.Secure || !c.HTTPOnly || c.Path != "/" || c.SameSite != "Lax" || !c.Session {
		t.Errorf("the cookie is %s, secure %v, for HTTP only %v, of %s, %s", c.Name, c.Secure, c.HTTPOnly, c.Path, c.SameSite)
	}
	d.url = plain
	d.fetch(t, "GET", "/keys", "", "Cookie", "__Host-keygate="+c.Value).want(http.StatusSeeOther)
}
