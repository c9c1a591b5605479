package e2e

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/chromedp/chromedp/kb"

	"github.com/keygate-dev/keygate/e2e/browser"
)

// TestConsoleKey is an operator with a new gateway. The operator creates a tenant and a key. Then the
// operator uses, edits, rotates, disables, revokes and deletes the key in the console.
func TestConsoleKey(t *testing.T) {
	t.Parallel()
	d := startConsole(t)
	tab := d.operator(t, browser.Desktop)

	// Empty pages link to the next step.
	tab.Go("/keys")
	tab.Has("No keys yet")
	tab.Follow("link=Create the first key")
	tab.Has("There is no tenant yet")
	tab.Follow("link=Create a tenant")
	tab.Fill("label=Slug", "acme")
	tab.Fill("label=Name", "Acme Rockets")
	tab.Fill("label=Plan", "pro")
	tab.Follow("button=Create the tenant")
	tab.Has("Acme Rockets", "The tenant is created.")
	tab.Follow("link=Create the first key")

	// The page shows which scopes the plan allows. The page shows each input error next to its field, and
	// keeps typed values.
	tab.Has("The plan pro allows deployment, free")
	if tab.Enabled("label=admin") || !tab.Enabled("label=deployment") {
		t.Error("the choice of scopes is not the plan's")
	}
	const planted = `Build <script>alert(1)</script> "&' robot`
	tab.Fill("label=Name", planted)
	tab.Fill("label=Description", "Deploys\nfrom CI.")
	tab.Fill("label=Allowed addresses", "127.0.0.0/8\nnonsense")
	tab.Click("button=Limits of its own")
	tab.Fill("label=Rate", "60/fortnight")
	tab.Follow("button=Create", http.StatusUnprocessableEntity)
	for field, want := range map[string]string{"allowed_ips": "nonsense", "rate": "60/fortnight"} {
		if wrong := tab.ErrorOf(field); !strings.Contains(wrong, "must") && !strings.Contains(wrong, want) {
			t.Errorf("the error of %s is %q", field, wrong)
		}
	}
	if got := tab.Focused(); !strings.HasPrefix(got, "Allowed addresses") && !strings.HasPrefix(got, "Rate") {
		t.Errorf("the focus is on %q, not on an invalid field", got)
	}
	tab.Accessible()
	for field, want := range map[string]string{"label=Name": planted, "label=Description": "Deploys\nfrom CI.", "label=Allowed addresses": "127.0.0.0/8\nnonsense", "label=Rate": "60/fortnight"} {
		if got := tab.Value(field); got != want {
			t.Errorf("%s holds %q, was %q", field, got, want)
		}
	}
	tab.Fill("label=Allowed addresses", "127.0.0.0/8\n::1")
	tab.Fill("label=Rate", "200/m")
	tab.Follow("button=Create")

	// The page shows the new key and a command to try the key.
	full := d.shownKey(t, tab)
	if !regexp.MustCompile(`^kg_live_[0-9A-Za-z]{32}$`).MatchString(full) {
		t.Fatalf("what is shown is no key: %.16s…", full)
	}
	if curl := tab.Text("#curl"); !strings.HasPrefix(curl, "curl ") || !strings.Contains(curl, full) {
		t.Error("the command does not hold the key")
	}
	tab.Accessible()
	// The page warns a person who leaves without having copied the key. Nobody else gets a warning.
	tab.Expect("beforeunload", false, func() { tab.Click("link=Tenants") })
	tab.Expect("confirm", false, func() { tab.Click("link=I have copied it") })
	tab.AllowClipboard()
	tab.Click("button=Copy")
	tab.Has("Copied")
	if got := tab.Clipboard(); got != full {
		t.Errorf("the clipboard holds %d characters, not the key", len(got))
	}
	tab.Follow("link=I have copied it")
	// From now on the test searches every page for the full key, which must not appear again.
	tab.Forbid(full)
	id := strings.TrimPrefix(tab.Path(), "/keys/")
	if !strings.HasPrefix(id, "key_") {
		t.Fatalf("the page after the key is %s", tab.Path())
	}
	tab.Has(planted, "No recent request with this key")
	tab.Back(0)
	tab.Reload(http.StatusConflict)
	tab.Has("It was shown before")
	tab.Go("/keys/" + id)

	// The new key works, and its open page shows new requests without a reload of the page.
	d.call(t, "GET", "/v1/items", full).passed()
	d.call(t, "POST", "/v1/deploy", full).passed()
	d.call(t, "DELETE", "/v1/items", "kg_live_"+strings.Repeat("0", 32)).rejected(http.StatusUnauthorized)
	tab.Has("GET /v1/items", "POST /v1/deploy")
	tab.Has("99 998 of 100 000 left")
	tab.Reload()
	tab.Has("from 127.0.0.1", "Requests", "Limits now", "Audit log", "Ada Operator created the key")
	tab.Await("the charts", `document.querySelectorAll('canvas').length >= 2`)
	if !tab.Drawn() {
		t.Error("a chart is empty")
	}
	tab.Accessible()

	// The entry of a rejected request links to a page that explains the rejection.
	d.patch(t, "/v1/keys/"+id, record{"scopes": []string{"free"}})
	d.call(t, "POST", "/v1/deploy", full).rejected(http.StatusForbidden)
	tab.Follow("link=Scope missing")
	tab.Has("Why was this refused?")
	if tab.Value("label=Path") != "/v1/deploy" || tab.Value("label=Method") != "POST" {
		t.Error("the request is not filled in")
	}
	tab.Fill("label=Full key", full)
	tab.Follow("button=Check the request")
	tab.Has("It is refused: Scope missing", "insufficient_scope")
	tab.Accessible()
	tab.Fill("label=Full key", full)
	tab.Fill("label=Method", "GET")
	tab.Follow("button=Check the request")
	tab.Has("It passes")

	// An edit of a key applies from the next request on.
	tab.Go("/keys/" + id)
	tab.Follow("link=Edit")
	tab.Check("label=deployment", true)
	tab.Fill("label=Name", "Robot")
	tab.Follow("button=Save")
	tab.Has("Saved.", "Robot")
	d.call(t, "POST", "/v1/deploy", full).passed()

	// After a rotation with a grace period, both secrets of the key are valid, and the page shows which
	// secret is in use.
	tab.Follow("link=Rotate")
	tab.Accessible()
	tab.Fill("label=The former secret stays valid for", "An hour")
	tab.Follow("button=Rotate")
	second := d.shownKey(t, tab)
	if second == full || second == "" {
		t.Fatal("the rotation shows no other key")
	}
	tab.Has("It stays valid for a while and ends")
	tab.Expect("beforeunload", true, func() { tab.Follow("link=API keys") })
	tab.Forbid(second)
	d.call(t, "GET", "/v1/items", full).passed()
	d.call(t, "GET", "/v1/items", second).passed()
	tab.Go("/keys/" + id)
	tab.Has("In grace", "Current", "Two secrets are valid")
	// After a rotation without a grace period, the former secret is invalid at once.
	tab.Go("/keys/" + id + "/rotate")
	tab.Has("is still in its grace")
	tab.Fill("label=The former secret stays valid for", "No time")
	tab.Follow("button=Rotate")
	third := d.shownKey(t, tab)
	tab.Click("h1") // Browsers ask a person who leaves a page only after the person has interacted with the page.
	tab.Expect("beforeunload", true, func() { tab.Reload(http.StatusConflict) })
	tab.Has("It was shown before")
	tab.Forbid(third)
	tab.Follow("link=To the key")
	d.call(t, "GET", "/v1/items", full).rejected(http.StatusUnauthorized)
	d.call(t, "GET", "/v1/items", second).rejected(http.StatusUnauthorized)
	d.call(t, "GET", "/v1/items", third).passed()

	// Each action on a key first shows its effects, and cancelling the action has no effect.
	for _, act := range []struct {
		link, says, button, done, status string
		answer                           int
	}{
		{"link=Disable", "Enabling the key restores it", "button=Disable the key", "The key is disabled", "Disabled", 401},
		{"link=Enable", "Requests with the key pass again", "button=Enable the key", "The key is enabled", "Active", 200},
		{"link=Revoke", "This can't be undone", "button=Revoke permanently", "The key is revoked", "Revoked", 401},
	} {
		tab.Follow(act.link)
		tab.Has("What will happen", act.says)
		tab.Accessible()
		tab.Follow("link=Cancel")
		tab.Follow(act.link)
		tab.Follow(act.button)
		tab.Has(act.done)
		if got := tab.Text("h1 .badge"); got != act.status {
			t.Errorf("after %s the key is %s", act.link, got)
		}
		d.call(t, "GET", "/v1/items", third).want(act.answer)
	}
	if tab.Sees("link=Enable") || tab.Sees("link=Rotate") || tab.Sees("link=Edit") {
		t.Error("a revoked key can be changed")
	}
	tab.Follow("link=Delete")
	tab.Follow("button=Delete permanently")
	tab.Has("The key is deleted")
	tab.Go("/keys/"+id, http.StatusNotFound)
	tab.Go("/audit?key=" + id)
	tab.Has("deleted the key", "rotated the key's secret")
	for _, r := range tab.Requests() {
		for _, secret := range []string{full, second, third} {
			if strings.Contains(r.URL, secret) {
				t.Errorf("a key is in %s", r.URL)
			}
		}
	}
}

// TestConsoleKeyList checks that the list shows keys in pages, and finds a key by status, name, prefix, id
// or the full key.
func TestConsoleKeyList(t *testing.T) {
	t.Parallel()
	d := startConsole(t)
	d.tenant(t, "acme", record{"name": "Acme", "plan": "pro"})
	d.tenant(t, "globex", record{"plan": "business", "credits": 10})
	for i := range 53 {
		d.key(t, "acme", record{"name": "robot " + strings.Repeat("i", i%7+1)})
	}
	known := d.key(t, "globex", record{"name": "Größe 7", "environment": "test", "scopes": []string{"admin"}})
	off := d.key(t, "acme", record{"name": "switched off"})
	d.post(t, off, "disable", nil)
	d.call(t, "GET", "/v1/items", known.full).passed()

	for _, v := range []browser.View{browser.Desktop, browser.Phone} {
		t.Run(v.Name, func(t *testing.T) {
			t.Parallel()
			tab := d.operator(t, v)
			tab.Go("/keys")
			for _, want := range []string{"Größe 7", known.full[:12], "admin", "test", "globex", "business", "from 127.0.0.1", "never", "Active", "Disabled"} {
				tab.Has(want)
			}
			rows := func() int {
				var n int
				tab.Eval(`document.querySelectorAll('table.keys tbody tr').length`, &n)
				return n
			}
			listed := rows()
			for tab.Sees("link=Next page") {
				tab.Follow("link=Next page")
				listed += rows()
			}
			if listed != 55 {
				t.Errorf("%d keys on all pages, want 55", listed)
			}
			tab.Follow("link=First page")
			tab.Follow("link=Disabled")
			if n := rows(); n != 1 || !tab.Says("switched off") {
				t.Errorf("%d keys are disabled", n)
			}
			tab.Follow("link=All")
			for _, search := range []string{"größe", known.full[:12], known.id} {
				tab.Fill("#search", search)
				tab.Follow("button=Search")
				if search == known.full[:12] || search == "größe" {
					if n := rows(); n != 1 || !tab.Says("Größe 7") {
						t.Errorf("searching for %q finds %d keys", search, n)
					}
				}
				tab.Go("/keys")
			}
			// Searching for a full key opens the key's page, and puts the full key into no URL.
			tab.Fill("#search", known.full)
			tab.Submit(kb.Enter)
			if !strings.HasPrefix(tab.Path(), "/keys/"+known.id) {
				t.Errorf("a full key leads to %s", tab.Path())
			}
			tab.Forbid(known.full)
			tab.Go("/keys?q=nothing-like-it")
			tab.Has("No key matches")
			tab.Follow("link=Show all keys")
		})
	}
}

// TestConsoleKeyboard checks that a person can create and revoke a key with the keyboard alone.
func TestConsoleKeyboard(t *testing.T) {
	t.Parallel()
	d := startConsole(t)
	d.tenant(t, "acme", record{"plan": "pro"})
	tab := d.open(t, browser.Desktop)
	tab.Go("/sign-in")
	to(t, tab, "Management token")
	tab.Press(d.token)
	tab.Submit(kb.Enter)
	// The first element that the tab key reaches is a link that skips the navigation.
	tab.Press(kb.Tab)
	if got := tab.Focused(); got != "Skip to content" {
		t.Errorf("the first stop is %q", got)
	}
	to(t, tab, "API keys")
	tab.Submit(kb.Enter)
	to(t, tab, "Create the first key")
	tab.Submit(kb.Enter)
	to(t, tab, "acme")
	tab.Submit(kb.Enter)
	to(t, tab, "Name")
	tab.Press("by hand")
	to(t, tab, "free")
	tab.Press(" ")
	to(t, tab, "Create the key")
	tab.Submit(kb.Enter)
	full := d.shownKey(t, tab)
	tab.AllowClipboard()
	to(t, tab, "Copy")
	tab.Press(kb.Enter)
	tab.Has("Copied.")
	to(t, tab, "I have copied it")
	tab.Submit(kb.Enter)
	tab.Forbid(full)
	tab.Has("by hand")
	to(t, tab, "Revoke")
	tab.Submit(kb.Enter)
	to(t, tab, "Revoke permanently")
	tab.Submit(kb.Enter)
	tab.Has("The key is revoked")
}

// to moves the focus to an element with the tab key. The test fails if the tab key does not reach the
// element, or if the focus is not visible.
func to(t *testing.T, tab *browser.Tab, what string) {
	t.Helper()
	var passed []string
	for range 60 {
		tab.Press(kb.Tab)
		got := tab.Focused()
		if got == what || strings.HasPrefix(got, what+" ") {
			var seen bool
			tab.Eval(`(() => { const s = getComputedStyle(document.activeElement); return s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) > 0 || s.boxShadow !== 'none'; })()`, &seen)
			if !seen {
				t.Errorf("the focus on %s is not visible", what)
			}
			return
		}
		passed = append(passed, got)
	}
	t.Fatalf("%s is not reached by the tab key at %s; passed were %q", what, tab.Path(), passed)
}

// TestConsoleWithoutScripts checks that a person whose browser runs no scripts can create, use and revoke
// a key.
func TestConsoleWithoutScripts(t *testing.T) {
	t.Parallel()
	d := startConsole(t)
	d.tenant(t, "acme", record{"plan": "pro"})
	for _, who := range []string{"operator", "tenant"} {
		t.Run(who, func(t *testing.T) {
			t.Parallel()
			v := browser.Phone.WithoutScript()
			var tab *browser.Tab
			if who == "operator" {
				tab = d.operator(t, v)
				tab.Go("/keys/new?tenant=acme")
			} else {
				tab = d.person(t, v, "acme", nil)
				tab.Go("/keys/new")
			}
			tab.Fill("label=Name", "of the "+who)
			tab.Follow("button=Create")
			full := d.shownKey(t, tab)
			d.call(t, "GET", "/v1/items", full).passed()
			tab.Follow("link=I have copied it")
			tab.Forbid(full)
			tab.Reload()
			tab.Has("of the "+who, "GET /v1/items")
			tab.Follow("link=Revoke")
			tab.Follow("button=Revoke permanently")
			tab.Has("The key is revoked")
			d.call(t, "GET", "/v1/items", full).rejected(http.StatusUnauthorized)
			tab.Go("/keys")
			tab.Has("of the "+who, "Revoked")
			tab.Follow("button=Sign out")
			tab.Has("signed out")
		})
	}
}
