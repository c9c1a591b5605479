package e2e

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/e2e/browser"
)

// TestConsolePages checks that every page for operators and for a tenant's people works on a desktop and
// on a phone, in light and dark colours. No page may have a barrier that axe-core finds, an error in the
// browser's console, or content wider than the screen. Text that other people typed must not run as a
// script.
func TestConsolePages(t *testing.T) {
	t.Parallel()
	d := startConsole(t)
	keys := d.fill(t)
	// Every field that a person can fill in contains HTML and scripts.
	const bad = `"><img src=x onerror=alert(1)><script>alert(2)</script>{{.}}`
	d.tenant(t, "planted", record{"name": bad, "plan": "business", "credits": 5, "metadata": record{"note": bad}})
	planted := d.key(t, "planted", record{"name": bad, "description": bad, "metadata": record{"note": bad}})
	d.call(t, "GET", "/v1/%3Cscript%3Ealert(1)%3C/script%3E/%22%3E%3Cimg%20src=x%20onerror=alert(3)%3E", planted.full)
	d.manage(t, "POST", "/v1/tenants/planted/credits", record{"add": 1, "reference": bad}).want(http.StatusOK)
	hook := d.manage(t, "POST", "/v1/webhooks", record{"url": `http://127.0.0.1:9/"><script>alert(4)</script>`, "events": []string{"*"}, "tenant": "planted"})
	if hook.status != http.StatusCreated {
		hook = d.manage(t, "POST", "/v1/webhooks", record{"url": "http://127.0.0.1:9/planted", "events": []string{"*"}, "tenant": "planted"}).want(http.StatusCreated)
	}
	d.manage(t, "POST", "/v1/tokens", record{"name": bad, "scopes": []string{"keys:read"}}).want(http.StatusCreated)

	both := []string{"/keys", "/keys/new", "/keys/" + planted.id, "/keys/" + planted.id + "/edit", "/keys/" + planted.id + "/rotate",
		"/keys/" + planted.id + "/revoke", "/keys/" + planted.id + "/delete", "/webhooks", "/webhooks/new", "/webhooks/" + hook.json().text("id"),
		"/webhooks/" + hook.json().text("id") + "/edit", "/webhooks/" + hook.json().text("id") + "/delete", "/audit", "/explain?path=" + "%22%3E%3Cscript%3Ealert(5)%3C/script%3E&reason=x"}
	operators := []string{"/overview", "/overview?span=30d", "/keys/new?tenant=planted", "/keys/" + keys["site"].id, "/tenants", "/tenants?plan=none", "/tenants/new", "/tenants/planted",
		"/tenants/planted/edit", "/tenants/planted/credits", "/tenants/planted/suspend", "/tenants/planted/delete", "/plans", "/tokens", "/tokens/new",
		"/tokens/" + d.tokenID + "/revoke", "/sessions", "/audit/chain", "/keys?q=nothing"}
	tenants := []string{"/usage", "/keys?status=expired"}

	// look opens a page and checks it in one view. It checks the next page in the next view. A soak test checks each page
	// in every view.
	views := []browser.View{browser.Desktop, browser.Phone.InDark(), browser.Desktop.InDark(), browser.Phone}
	var looked atomic.Int32
	look := func(tab *browser.Tab, path string, statuses ...int) {
		t.Helper()
		tab.Go(path, statuses...)
		shown := views
		if i := int(looked.Add(1)) % len(views); !soaking {
			shown = views[i : i+1]
		}
		for _, v := range shown {
			tab.Become(v)
			tab.Accessible()
		}
	}
	zoned := browser.Desktop
	zoned.Zone = "Pacific/Auckland"
	t.Run("operators", func(t *testing.T) {
		t.Parallel()
		tab := d.open(t, zoned)
		look(tab, "/sign-in")
		look(tab, "/portal")
		tab = d.operator(t, zoned)
		for _, path := range append(both, operators...) {
			look(tab, path)
		}
		look(tab, "/nowhere", http.StatusNotFound)
		// Pages show times in the reader's time zone.
		tab.Go("/audit")
		zone, err := time.LoadLocation(zoned.Zone)
		if err != nil {
			t.Fatal(err)
		}
		hour := time.Now().In(zone).Format("3:")
		before := time.Now().Add(-time.Hour).In(zone).Format("3:")
		if text := tab.Text(".events .sub"); !strings.Contains(text, hour) && !strings.Contains(text, before) {
			t.Errorf("at %s the audit log shows %q", time.Now().In(zone), text)
		}
	})
	t.Run("people", func(t *testing.T) {
		t.Parallel()
		tab := d.person(t, zoned, "planted", record{"actor": bad, "return_url": "https://app.example.com/settings"})
		for _, path := range append(both, tenants...) {
			look(tab, path)
		}
	})
}
