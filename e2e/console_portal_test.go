package e2e

import (
	"database/sql"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/e2e/browser"
	"github.com/keygate-dev/keygate/internal/testkit"
)

// operatorPages are the pages that a tenant's people can't open: the console answers 404.
var operatorPages = []string{"/overview", "/tenants", "/tenants/new", "/tenants/acme", "/tenants/globex", "/tenants/acme/edit", "/tenants/acme/credits",
	"/tenants/acme/suspend", "/plans", "/tokens", "/tokens/new", "/sessions", "/audit/chain"}

// TestConsolePortal is a tenant's person who comes by a portal link. The person must be able to manage the
// keys of the tenant, and must see nothing of other tenants.
func TestConsolePortal(t *testing.T) {
	t.Parallel()
	d := startConsole(t)
	d.tenant(t, "acme", record{"name": "Acme Rockets", "plan": "free"})
	d.tenant(t, "globex", record{"name": "Globex", "plan": "business", "credits": 100})
	theirs := d.key(t, "globex", record{"name": "not theirs to see"})
	hook := d.manage(t, "POST", "/v1/webhooks", record{"url": "http://127.0.0.1:9/globex", "events": []string{"*"}, "tenant": "globex"}).want(http.StatusCreated).json().text("id")

	for _, v := range []browser.View{browser.Desktop, browser.Phone} {
		t.Run(v.Name, func(t *testing.T) {
			t.Parallel()
			name := "robot on " + v.Name
			link := d.link(t, "acme", record{"return_url": "http://localhost/settings"})
			_, secret, _ := strings.Cut(link, "#")
			d.keep(secret)
			// A program that only fetches the portal link does not use it up, because the secret is in the URL's
			// fragment, which is not sent.
			if !strings.HasPrefix(link, d.url+"/portal#kgp_") {
				t.Fatalf("the link is %.40s…", link)
			}
			d.fetch(t, "GET", "/portal", "").want(http.StatusOK)
			tab := d.open(t, v)
			tab.Enter(link, "button=Sign out")
			tab.Forbid(secret)
			tab.Go("/")
			tab.Has("API keys")
			// The portal link can't be used a second time.
			again := d.open(t, v)
			again.Enter(link, ".alert")
			again.Has("This link has been used or has expired")
			again.Accessible()

			// The person creates a key in the portal.
			tab.Go("/keys/new")
			tab.Has("The plan free allows free")
			if tab.Enabled("label=admin") || tab.Enabled("label=deployment") {
				t.Error("scopes beyond the plan can be chosen")
			}
			tab.Fill("label=Name", name)
			tab.Follow("button=Create")
			full := d.shownKey(t, tab)
			tab.Expect("confirm", true, func() { tab.Follow("link=I have copied it") })
			tab.Forbid(full)
			d.call(t, "GET", "/v1/items", full).passed()
			tab.Has("GET /v1/items")
			id, _, _ := strings.Cut(strings.TrimPrefix(tab.Path(), "/keys/"), "?")
			tab.Follow("link=Rotate")
			tab.Fill("label=The former secret stays valid for", "No time")
			tab.Follow("button=Rotate")
			second := d.shownKey(t, tab)
			tab.Expect("confirm", true, func() { tab.Follow("link=I have copied it") })
			tab.Forbid(second)
			d.call(t, "GET", "/v1/items", full).rejected(http.StatusUnauthorized)
			for _, act := range []struct {
				link, button string
				answer       int
			}{{"link=Disable", "button=Disable the key", 401}, {"link=Enable", "button=Enable the key", 200}, {"link=Revoke", "button=Revoke permanently", 401}} {
				tab.Follow(act.link)
				tab.Follow(act.button)
				d.call(t, "GET", "/v1/items", second).want(act.answer)
			}
			tab.Go("/audit?key=" + id)
			tab.Has("Tess Tenant created the key", "Tess Tenant revoked the key")
			tab.Go("/audit")
			tab.Go("/usage")
			tab.Has("Usage and plan", "free")

			if tab.Sees("link=Tenants") || tab.Sees("link=Overview") || tab.Sees("link=Tokens") {
				t.Error("the navigation links to pages for operators")
			}
			tab.Go("/tenants/globex", http.StatusNotFound)
			tab.Accessible()

			// Records of other tenants and pages for operators answer 404.
			cookie := tab.Cookies()[0].Name + "=" + tab.Cookies()[0].Value
			paths := slices.Clone(operatorPages)
			for _, path := range []string{"", "/edit", "/rotate", "/disable", "/revoke", "/delete", "/limits", "/requests"} {
				paths = append(paths, "/keys/"+theirs.id+path)
			}
			for _, path := range []string{"", "/edit", "/delete", "/rotate-secret"} {
				paths = append(paths, "/webhooks/"+hook+path)
			}
			for _, path := range paths {
				if a := d.fetch(t, "GET", path, "", "Cookie", cookie); a.status != http.StatusNotFound || strings.Contains(a.body, "Globex") {
					t.Errorf("%s answers %d", path, a.status)
				}
			}
			for _, path := range []string{"/keys?tenant=globex", "/audit?tenant=globex", "/audit?key=" + theirs.id, "/webhooks?tenant=globex", "/usage?tenant=globex"} {
				if a := d.fetch(t, "GET", path, "", "Cookie", cookie); a.status != http.StatusOK && a.status != http.StatusNotFound ||
					strings.Contains(a.body, "not theirs") || strings.Contains(a.body, "Globex") {
					t.Errorf("%s answers %d with data of another tenant", path, a.status)
				}
			}
			// The search and the explanation treat a key of another tenant as an unknown key.
			tab.Go("/keys")
			tab.Fill("#search", theirs.full)
			tab.Follow("button=Search")
			tab.Has("No key matches")
			tab.Forbid(theirs.full)
			tab.Go("/explain")
			tab.Fill("label=Full key", theirs.full)
			tab.Follow("button=Check the request")
			if page := tab.HTML(); strings.Contains(page, "not theirs") || strings.Contains(page, "lobex") {
				t.Error("the explanation shows another tenant's key")
			}

			// The page links back to the product. After the person has signed out, no page is visible any more.
			if got := tab.Attribute("link=Back to", "href"); got != "http://localhost/settings" {
				t.Errorf("the way back leads to %q", got)
			}
			tab.Follow("button=Sign out")
			tab.Accessible()
			if n := len(tab.Cookies()); n != 0 {
				t.Errorf("%d cookies are left", n)
			}
			tab.Go("/keys")
			tab.See("button=Sign in")
			if a := d.fetch(t, "GET", "/keys", "", "Cookie", cookie); a.status != http.StatusSeeOther {
				t.Errorf("the session's cookie still gives %d", a.status)
			}
		})
	}

	t.Run("viewer", func(t *testing.T) {
		t.Parallel()
		own := d.key(t, "acme", record{"name": "to be looked at"})
		tab := d.person(t, browser.Desktop, "acme", record{"role": "viewer", "actor": "Vic Viewer"})
		tab.Go("/keys")
		tab.Has("to be looked at")
		if tab.Sees("link=Create a key") {
			t.Error("a viewer is offered to create")
		}
		for _, path := range []string{"/keys/new", "/keys/" + own.id + "/edit", "/keys/" + own.id + "/revoke", "/webhooks/new"} {
			tab.Go(path, http.StatusForbidden)
		}
		tab.Go("/keys/" + own.id)
		if tab.Sees("link=Revoke") || tab.Sees("link=Edit") {
			t.Error("a viewer is offered to change")
		}
	})
}

// TestConsoleSessionsEnd checks that a session ends when an operator ends it, when its token is revoked,
// and after 30 minutes without use.
func TestConsoleSessionsEnd(t *testing.T) {
	t.Parallel()
	d := startConsole(t)
	d.tenant(t, "acme", record{"name": "Acme", "plan": "pro"})
	operator := d.operator(t, browser.Desktop)
	signedOut := func(tab *browser.Tab) {
		t.Helper()
		tab.Go("/keys?status=active")
		tab.See("button=Sign in")
		if got := tab.Path(); got != "/sign-in?to=%2Fkeys%3Fstatus%3Dactive" {
			t.Errorf("the page redirects to %s", got)
		}
	}

	// Before a portal link ends another session, the page asks the person, with and without scripts.
	for _, v := range []browser.View{browser.Desktop, browser.Desktop.WithoutScript()} {
		tab, link := d.operator(t, v), d.link(t, "acme", record{"actor": "Mallory"})
		_, secret, _ := strings.Cut(link, "#")
		d.keep(secret)
		enter := func() {
			if v.NoScript {
				tab.Go("/portal")
				tab.Fill("label=Link", link)
				tab.Follow("button=Continue")
			} else {
				tab.Enter(link, "button=Sign in as Mallory")
			}
		}
		enter()
		tab.Has("You are signed in as Ada Operator", "the tenant acme")
		if !v.NoScript {
			tab.Accessible()
		}
		tab.Follow("link=Stay signed in as Ada Operator")
		tab.Go("/tenants")
		enter()
		tab.Follow("button=Sign in as Mallory")
		tab.Forbid(secret)
		tab.Go("/tenants", http.StatusNotFound)
		tab.Has("Mallory")
	}

	tess := d.person(t, browser.Phone, "acme", nil)
	operator.Go("/sessions")
	operator.Has("Tess Tenant", "a portal link", "Ada Operator", "you, here")
	operator.Follow("button=End the session of Tess Tenant")
	operator.Has("The session has ended.")
	signedOut(tess)

	// An open page polls the gateway. If its session has ended, the page goes to the sign-in page at the next
	// poll.
	k := d.key(t, "acme", nil)
	token, tokenID := d.grant(t, "keys:read", "usage:read", "tenants:read")
	reader := d.open(t, browser.Desktop)
	reader.Go("/sign-in")
	reader.Fill("label=Management token", token)
	reader.Follow("button=Sign in")
	reader.Go("/keys/" + k.id)
	reader.Tolerate(http.StatusUnauthorized)
	d.manage(t, "DELETE", "/v1/tokens/"+tokenID, nil).want(http.StatusNoContent)
	reader.See("button=Sign in")

	// After 30 minutes without use, a person signs in again and returns to the same page.
	db, err := sql.Open("sqlite", d.database)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	testkit.Eventually(t, "the database", func() bool {
		_, err := db.Exec(`UPDATE sessions SET last_used_at = ? WHERE ended_at IS NULL`, time.Now().Add(-31*time.Minute).UnixMicro())
		return err == nil
	})
	signedOut(operator)
	operator.Fill("label=Management token", "kgm_"+strings.Repeat("0", 40))
	operator.Follow("button=Sign in", http.StatusUnauthorized)
	if wrong := operator.ErrorOf("token"); wrong == "" {
		t.Error("the field token shows no error for an unknown token")
	}
	operator.Accessible()
	operator.Fill("label=Management token", d.token)
	operator.Follow("button=Sign in")
	if got := operator.Path(); got != "/keys?status=active" {
		t.Errorf("after signing in again the page is %s", got)
	}
}
