package console

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/auth"
	"github.com/keygate-dev/keygate/plugin/management/webhooks"
)

// An operator creates, edits, rotates, disables, enables, revokes and deletes a key with the
// console's forms.
func TestKeyFlow(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "pro")
	b := w.operator()
	b.get("/keys/new").want(http.StatusOK).has("Whose key is it?", "acme")
	b.get("/keys/new?tenant=nobody").want(http.StatusNotFound).has("no tenant of that name", `value="nobody"`)
	form := b.get("/keys/new?tenant=acme").want(http.StatusOK).has("The plan pro allows deployment, free", "admin includes deployment, free · not part of the plan pro")

	// The page shows each fault next to its field, and keeps the typed values.
	typed := []string{"once", form.once(), "tenant", "acme", "name", "", "description", "what <for>", "with_scopes", "yes", "scopes", "admin", "environment", "test",
		"expires", "date", "expires_on", "soon", "allowed_ips", "10.0.0.0/8\nnowhere", "rate", "fast", "quota", "5/year", "concurrency", "x", "credits_limit", "many"}
	b.send("/keys/new", typed...).want(http.StatusUnprocessableEntity).has("Must be a date and time in UTC", "Must be a whole number", "what &lt;for&gt;", `value="many"`)
	typed[slices.Index(typed, "soon")], typed[slices.Index(typed, "many")] = "2001-01-01T10:00", "5"
	p := b.send("/keys/new", typed...).want(http.StatusUnprocessableEntity).has("Must not be empty", "Must be in the future", "“nowhere” must be an address", "does not allow the scope",
		`value="fast"`, `value="5/year"`, `value="2001-01-01T10:00"`, `<option value="test" selected>`, `<option value="date" selected>`, `value="admin" checked`)
	if n := strings.Count(p.body, `aria-invalid="true"`); n < 5 {
		t.Errorf("%d fields are marked", n)
	}
	form = b.get("/keys/new?tenant=acme")
	b.send("/keys/new", "once", form.once(), "tenant", "acme", "name", "CI", "description", "builds\r\nand ships", "with_scopes", "yes", "scopes", "free", "environment", "test",
		"expires", "30", "allowed_ips", "10.0.0.0/8, 192.0.2.7", "rate", "10/m", "quota", "100/day", "concurrency", "5", "credits_limit", "1 000").want(http.StatusOK).has("CI is ready", "kg_test_")
	keys := testkit.Must[management.Page[management.KeyRecord]](t)(w.manager.Keys(ctx, root, "default", management.KeyFilter{}))
	k := keys.Data[0]
	days := time.Until(*k.ExpiresAt).Hours() / 24
	if k.Description != "builds\nand ships" || k.Environment != "test" || !slices.Equal(k.Scopes, []string{"free"}) || days < 29.9 || days > 30.1 ||
		!slices.Equal(k.AllowedIPs, []string{"10.0.0.0/8", "192.0.2.7"}) || *k.Rate != "10/m" || *k.Quota != "100/day" || k.ConcurrencyText() != "5" || *k.CreditsLimit != 1000 {
		t.Errorf("the key is %+v", k)
	}
	at := "/keys/" + k.ID
	b.get(at).want(http.StatusOK).has("CI", "builds and ships", "10.0.0.0/8", "Current", "10/m", "100/day", "in 30 days")

	b.get(at+"/edit").want(http.StatusOK).has(`value="CI"`, `<option value="keep" selected>`, `value="1000"`, "10.0.0.0/8\n192.0.2.7")
	b.send(at+"/edit", "name", "CI 2", "with_scopes", "yes", "scopes", "deployment", "expires", "keep", "credits_limit", "").to(at + "?done=key-updated")
	k = testkit.Must[management.KeyRecord](t)(w.manager.Key(ctx, root, "default", k.ID))
	if k.Name != "CI 2" || k.Scopes[0] != "deployment" || k.ExpiresAt == nil || k.CreditsLimit != nil || k.Rate != nil || len(k.AllowedIPs) != 0 {
		t.Errorf("the key is %+v", k)
	}
	b.send(at+"/edit", "name", "CI 2", "expires", "never").to(at + "?done=key-updated")
	b.send(at+"/edit", "name", "", "expires", "keep").want(http.StatusUnprocessableEntity).has("Must not be empty")

	b.get(at + "/rotate").want(http.StatusOK).has("stays valid")
	b.send(at+"/rotate", "once", "a", "grace", "soon").want(http.StatusUnprocessableEntity).has("Must be a duration")
	b.send(at+"/rotate", "once", "b", "grace", "24h").want(http.StatusOK).has("in 24 hours", "new secret of CI 2")
	b.get(at).has("Two secrets are valid", "In grace")
	b.get(at + "/rotate").has("is still in its grace")
	b.send(at+"/rotate", "once", "c", "grace", "0").want(http.StatusOK).has("It is invalid from now on")

	for _, act := range []struct{ name, effect, badge, notice string }{
		{"disable", "restores it unchanged", "Disabled", "disabled"}, {"enable", "pass again", "Active", "enabled"},
		{"reset-limits", "nothing counts as used", "Active", "limits-reset"}, {"revoke", "can't be undone", "Revoked", "revoked"},
	} {
		b.get(at+"/"+act.name).want(http.StatusOK).has("What will happen", act.effect)
		b.send(at + "/" + act.name).to(at + "?done=" + act.notice)
		b.get(at+"?done="+act.notice).has(act.badge, notices[act.notice])
	}
	b.send(at+"/enable").want(http.StatusConflict).has("can't be undone", "What will happen")
	b.send(at+"/edit", "name", "x", "expires", "keep").want(http.StatusConflict).has("The key is revoked")
	b.get(at).lacks("Rotate", "Disable").has("Delete")
	b.send(at + "/delete").to("/keys?done=deleted")
	b.get(at).want(http.StatusNotFound)
	if got := w.audit(12); got[0] != got[1][:strings.Index(got[1], " key.")]+" key.deleted" {
		t.Errorf("the audit log has %v", got)
	}
	b.get("/audit?tenant=acme").has("created the key", "rotated the key", "revoked the key", "deleted the key", "console")
}

func TestTenantFlow(t *testing.T) {
	w := newFixture(t)
	b := w.operator()
	b.send("/tenants/new", "slug", "a b", "plan", "gold", "credits", "x").want(http.StatusUnprocessableEntity).has("Must be a whole number", `value="a b"`)
	b.send("/tenants/new", "slug", "a b", "plan", "gold").want(http.StatusUnprocessableEntity).has(`value="a b"`, "Slug", "Plan")
	b.send("/tenants/new", "slug", "acme", "name", "Acme", "plan", "pro", "credits", "50", "rate", "9/m").to("/tenants/acme?done=tenant-created")
	b.send("/tenants/new", "slug", "ACME").want(http.StatusConflict).has("Slug")
	b.get("/tenants?slug=acme").to("/tenants/acme")
	b.get("/tenants?slug=nobody").want(http.StatusOK).has("no tenant of that name", `value="nobody"`)
	b.get("/tenants?plan=free").has("No tenant is on this plan")
	b.get("/tenants/acme").has("Acme", "pro", "9/m", "The tenant has no keys yet", "50 Ledger")
	b.send("/tenants/acme/edit", "name", "Acme 2", "plan", "free", "metadata", "{").want(http.StatusUnprocessableEntity).has("Metadata")
	b.send("/tenants/acme/edit", "name", "Acme 2", "plan", "free", "metadata", `{"crm": 42}`).to("/tenants/acme?done=tenant-updated")
	b.get("/tenants/acme").has("Acme 2", "free", `{"crm":42}`, "none: the plan’s limits apply")

	b.send("/tenants/acme/credits", "direction", "add", "amount", "25", "reference", "order 7").to("/tenants/acme/credits?done=credits")
	b.send("/tenants/acme/credits", "direction", "spend", "amount", "5").to("/tenants/acme/credits?done=credits")
	b.get("/tenants/acme/credits").has("70 credits left", "order 7", "−5")
	for _, amount := range []string{"", "0", "-3", "x", "71"} {
		b.send("/tenants/acme/credits", "direction", "spend", "amount", amount).has("70 credits left", `<option value="spend" selected>`)
	}
	k := w.key("acme", "one")
	b.get("/tenants/acme/suspend").has("It has 1 active key")
	b.send("/tenants/acme/suspend").to("/tenants/acme?done=suspended")
	b.get("/keys/" + k.ID).has("The tenant is suspended")
	b.send("/tenants/acme/activate").to("/tenants/acme?done=activated")
	b.send("/tenants/acme/reset-limits").to("/tenants/acme?done=limits-reset")
	b.send("/tenants/acme/delete").want(http.StatusConflict).has("keys")
	b.send("/tenants/acme/delete", "force", "yes").to("/tenants?done=tenant-deleted")
	b.get("/tenants/acme").want(http.StatusNotFound)
	b.get("/plans").has("300/m", "at most 3", "Default")
}

func TestWebhookAndTokenFlow(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "pro")
	b := w.operator()
	b.send("/webhooks/new", "once", "a", "url", "ftp://x", "events", "nothing").want(http.StatusUnprocessableEntity).has("https://", "is no type of events", `value="ftp://x"`)
	b.send("/webhooks/new", "once", "a", "url", "https://hooks.example.com/", "events", "key.*\njob.finished", "tenant", "acme").want(http.StatusOK).has("whsec_")
	hooks := testkit.Must[management.Page[webhooks.Record]](t)(w.handler.webhooks.Webhooks(ctx, root, "default", webhooks.Filter{}))
	at := "/webhooks/" + hooks.Data[0].ID
	testkit.Must[webhooks.PostedEvent](t)(w.handler.webhooks.PostEvent(ctx, root, "default", "acme", "job.finished", nil))
	b.get(at).has("job.finished", "Pending", "Replay")
	b.get(at + "?status=dead").has("Nothing was delivered yet")
	b.get(at + "?status=lost").want(http.StatusUnprocessableEntity)
	list := testkit.Must[management.Page[webhooks.DeliveryRecord]](t)(w.handler.webhooks.Deliveries(ctx, root, "default", hooks.Data[0].ID, webhooks.DeliveryFilter{}))
	b.send(at + "/deliveries/" + list.Data[0].ID + "/replay").to(at + "?done=replayed")
	b.send(at+"/edit", "url", "https://hooks.example.com/2", "events", "*").to(at + "?done=webhook-updated")
	b.get(at).has("https://hooks.example.com/2", "Disabled")
	b.send(at + "/deliveries/" + list.Data[0].ID + "/replay").want(http.StatusConflict)
	b.send(at + "/delete").to("/webhooks?done=webhook-deleted")

	b.send("/tokens/new", "once", "t", "name", "", "expires", "30").want(http.StatusUnprocessableEntity).has("Must not be empty", "Must be stated")
	b.send("/tokens/new", "once", "t", "name", "portal", "scopes", "portal", "expires", "90", "tenant", "acme").want(http.StatusOK).has("kgm_")
	tokens := testkit.Must[management.Page[auth.TokenRecord]](t)(auth.New(w.manager).Tokens(ctx, root, "default", auth.TokenFilter{}))
	id := tokens.Data[0].ID
	b.get("/tokens").has("portal", "acme")
	b.get("/tokens/" + id + "/revoke").has("can't be undone")
	b.send("/tokens/" + id + "/revoke").to("/tokens?done=token-revoked")
	// Revoking the token that signed the operator in ends the operator's own session.
	own := tokens.Data[1].ID
	b.get("/tokens/" + own + "/revoke").has("your own session ends too")
	b.send("/tokens/" + own + "/revoke").to("/tokens?done=token-revoked")
	b.get("/tokens").want(http.StatusSeeOther)
}

func TestUsageAndRequests(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "pro")
	k := w.key("acme", "busy")
	for range 3 {
		w.use(k, gateway.Allowed, 200)
	}
	w.use(k, gateway.RateLimited, 429)
	w.use(k, gateway.Allowed, 502)
	if err := w.tracker.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	b, person := w.operator(), w.person("acme", "viewer")
	b.get("/keys/"+k.ID).want(http.StatusOK).has("Requests 5", "Refused 1 20 %", "Rate limited", "GET /v1/jobs", "192.0.2.7", `data-column="rate_limited"`, `data-columns="allowed refused"`)
	b.get("/keys/"+k.ID+"?span=30d").has("Requests 5", "Requests per day")
	b.get("/keys/"+k.ID+"/requests").want(http.StatusOK).has("502", "429", "Rate limited").lacks("<main", "<html")
	b.get("/keys/"+k.ID+"/limits").want(http.StatusOK).has("300/m", "left").lacks("<main")
	b.get("/overview").has("Requests 5", "busy", "100 %", "All well", "n1")
	person.get("/usage").has("Requests 5", "Plan pro", "1000/day")
	person.get("/keys/" + k.ID + "/requests").has("502")
	// A poll of a browser that is no longer signed in redirects to the sign-in page.
	gone := w.browser()
	gone.header.Set("HX-Request", "true")
	if p := gone.get("/keys/" + k.ID + "/requests").want(http.StatusUnauthorized); p.header.Get("HX-Redirect") != "/sign-in" {
		t.Errorf("the poll is redirected to %q", p.header.Get("HX-Redirect"))
	}
	w.status.Degraded, w.status.Problems = true, []string{"the store does not answer"}
	b.get("/overview").has("degraded", "the store does not answer").lacks("All well")
	b.get("/audit/chain").has("The chain is intact", "compare it with one kept elsewhere")
}

// The page of a receipt names the nodes on which a change is not in effect yet.
func TestReceiptPage(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "pro")
	k := w.key("acme", "one")
	by := time.Now().Add(time.Hour)
	page := receiptPage{k.KeyRecord, management.Receipt{Confirmed: []string{"n1"}, Pending: []management.PendingNode{{Node: "n2", StopsBy: &by}, {Node: "n3"}}}, notices["revoked"]}
	b := w.operator()
	b.w.handler.mux.HandleFunc("GET /receipt", func(_ http.ResponseWriter, r *http.Request) {
		c := r.Context().Value(callKey{}).(*call)
		if err := c.admit(route{}); err != nil {
			t.Error(err)
		}
		if err := c.render(http.StatusOK, "key-receipt", "Not everywhere yet", page); err != nil {
			t.Error(err)
		}
	})
	p := b.get("/receipt").has("not written yet", "It is in effect on n1", "n2 stops using its copy in 1 hour", "n3", "The key is revoked")
	p.check()
}

// No form and no path, however invalid, causes a server error.
func TestHostileForms(t *testing.T) {
	w := newFixture(t)
	r := w.rival()
	b := w.operator()
	csrf := b.csrf()
	values := []string{"", "\x00", "\xff\xfe", strings.Repeat("a", 70_000), "-1", "99999999999999999999", "{}", "[]", "null", "<script>", "' OR 1=1 --", "../..", "\r\nSet-Cookie: x=y", "\u202e", "0", "1e9", "true", "٣"}
	fields := []string{"name", "slug", "plan", "tenant", "q", "status", "amount", "direction", "reference", "url", "events", "grace", "expires", "expires_on", "scopes", "environment",
		"allowed_ips", "rate", "quota", "concurrency", "credits_limit", "metadata", "description", "key", "method", "path", "ip", "once", "active", "force", "to", "code"}
	n := 0
	for _, rt := range routes {
		method, path, _ := r.paths(rt)
		if method != "POST" || path == "/sign-out" || strings.HasPrefix(path, "/tokens/tok_") || strings.HasPrefix(path, "/sessions") {
			continue
		}
		for _, path := range acts(path) {
			if strings.HasSuffix(path, "/delete") {
				continue
			}
			n++
			for i, v := range values {
				if (i+n)%4 != 0 {
					continue // This path needs no values in its form. Other paths get the values below.
				}
				form := url.Values{"csrf": {csrf}, "with_scopes": {"yes"}}
				for j, f := range fields {
					form.Set(f, values[(i+j*i)%len(values)])
					if i%2 == 0 {
						form.Set(f, v)
					}
				}
				if form.Get("once") == "" || i%3 == 0 {
					form.Set("once", "n"+path+v[:min(len(v), 5)])
				}
				req := testkit.Must[*http.Request](t)(http.NewRequest("POST", w.server.URL+path, strings.NewReader(form.Encode())))
				req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
				if p := b.do(req); p.status >= 500 {
					t.Errorf("%s with %.20q: %d %s", path, v, p.status, text(p.body))
				} else if set := p.header.Values("Set-Cookie"); len(set) > 0 {
					t.Errorf("%s sets %q", path, set)
				}
			}
		}
	}
	// Invalid paths and queries cause no server error either.
	for _, path := range []string{"//", "/keys/", "/keys//x", "/keys/%00", "/keys/%2e%2e", "/KEYS", "/keys/key_01m81qc7aeer370dx6jd0dtyhr/", "/keys?cursor=%00", "/keys?status=x", "/keys?q=" + strings.Repeat("x", 5000),
		"/keys?q=%ff", "/audit?key=%00&tenant=%ff", "/keys?tenant=..", "/tenants?plan=%00", "/tenants/%2f", "/overview?span=x", "/keys/" + r.key.ID + "?span=%00", "/explain?reason=%00&method=x&path=%ff&ip=x", "/sign-in?to=%00"} {
		if p := b.get(path); p.status >= 500 {
			t.Errorf("%s: %d %s", path, p.status, text(p.body))
		}
	}
	if log := w.log.String(); strings.Contains(log, "level=ERROR") {
		t.Errorf("the log has errors:\n%.2000s", log)
	}
}
