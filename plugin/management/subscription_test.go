package management_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/management/webhooks"
)

// What a token can't read, it can't have sent to a webhook either.
func TestHearingNeedsReading(t *testing.T) {
	w := newHookWorld(t, webhooks.Settings{Sealer: clear{}})
	w.tenant("acme", "free")
	const url = "https://example.com/"
	actor := func(tenant string, scopes ...string) management.Actor {
		return w.grant(w.token(nil, tokenOf(tenant, append(scopes, "webhooks:read", "webhooks:write")...)).Token).Actor("192.0.2.1")
	}
	writer := actor("")
	for _, tenant := range []string{"", "acme"} {
		for n, tt := range []struct {
			events string // separated by spaces; "" for the default
			needs  string
		}{
			{"", "keys:read tenants:read"}, {"*", "keys:read tenants:read"},
			{"key.created", "keys:read"}, {"key.*", "keys:read"}, {"key.leaked", "keys:read"}, {"limit.reached", "keys:read"},
			{"tenant.updated", "tenants:read"}, {"tenant.*", "tenants:read"}, {"credits.threshold", "tenants:read"},
			{"quota.*", "keys:read tenants:read"}, {"audit.head", "audit:read"}, {"audit.*", "audit:read"},
			{"job.finished", ""}, {"job.*", ""}, {"job.finished key.created", "keys:read"},
		} {
			if tenant != "" && n%3 != 0 {
				continue // a tenant's hook is made by the same rule
			}
			var events []string
			if tt.events != "" {
				events = strings.Fields(tt.events)
			}
			needs := strings.Fields(tt.needs)
			if _, err := w.CreateWebhook(ctx, actor(tenant, needs...), "", hookAt(url, events...)); err != nil {
				t.Errorf("%q with %q: %v", tt.events, tt.needs, err)
			}
			for i := range needs {
				lacking := append(append([]string{"usage:read", "keys:write", "verify"}, needs[:i]...), needs[i+1:]...)
				_, err := w.CreateWebhook(ctx, actor(tenant, lacking...), "", hookAt(url, events...))
				wantRefused(t, err, http.StatusForbidden, management.CodeInsufficientScope, map[bool]string{true: "/events/1", false: "/events/0"}[len(events) == 2])
				if !strings.Contains(err.Error(), needs[i]) {
					t.Errorf("%q without %s: %v", tt.events, needs[i], err)
				}
			}
			hooks := must[management.Page[webhooks.Record]](t)(w.Webhooks(ctx, ada, "", webhooks.Filter{}))
			for _, h := range hooks.Data { // there may be so many only
				if err := w.DeleteWebhook(ctx, ada, "", h.ID, nil); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if _, err := w.CreateWebhook(ctx, actor("", "*"), "", hookAt(url)); err != nil {
		t.Errorf("with *: %v", err)
	}

	// Nor can it widen, redirect or wake what another made; it may narrow and end it.
	h := must[webhooks.Issued](t)(w.CreateWebhook(ctx, ada, "", hookAt(url, "key.*")))
	for what, f := range map[string]webhooks.Fields{
		"url": {URL: management.Some("https://eve.example/")}, "events": {Events: management.Some([]string{"key.*", "job.finished"})},
		"active": {Active: management.Some(true)}, "all": {Events: management.Optional[[]string]{Set: true, Null: true}},
	} {
		_, err := w.UpdateWebhook(ctx, writer, "", h.ID, f, nil)
		if wantRefused(t, err, http.StatusForbidden, management.CodeInsufficientScope); t.Failed() {
			t.Fatal(what)
		}
	}
	if r := must[webhooks.Record](t)(w.Webhook(ctx, ada, "", h.ID)); r.URL != url || len(r.Events) != 1 {
		t.Errorf("changed to %+v", r)
	}
	must[webhooks.Record](t)(w.UpdateWebhook(ctx, writer, "", h.ID, webhooks.Fields{Active: management.Some(false)}, nil))
	must[webhooks.Record](t)(w.UpdateWebhook(ctx, writer, "", h.ID, webhooks.Fields{Events: management.Some([]string{"job.finished"})}, nil))
}

// A key's own limits don't bound its tenant: what is granted to that does, whichever keys it has.
func TestKeysWithoutLimitsLoosenNothing(t *testing.T) {
	w := newWorld(t)
	w.configure("free", 2, "free")
	quota := management.Some("3/month")
	must[management.TenantRecord](t)(w.CreateTenant(ctx, ada, "", "acme", tenantFields{Quota: quota}))
	limited := w.key("acme", func(f *KeyFieldsOf) { f.Quota = management.Some("1/month") })
	theirs := w.grant(w.token(nil, tokenOf("acme", "*")).Token).Actor("192.0.2.1")
	_, err := w.UpdateKey(ctx, theirs, "", limited.ID, KeyFieldsOf{Quota: management.Optional[string]{Set: true, Null: true}}, nil)
	wantRefused(t, err, http.StatusForbidden, management.CodeInsufficientScope, "/quota")
	passed := 0
	for range 3 { // each time with a new key that has no limits
		k := must[management.IssuedKey](t)(w.CreateKey(ctx, theirs, "", "acme", KeyFieldsOf{Name: some("free")}))
		for range 3 {
			if w.judge(k.Key).String() == "allowed" {
				passed++
			}
		}
		if err := w.DeleteKey(ctx, theirs, "", k.ID, nil); err != nil {
			t.Fatal(err)
		}
	}
	if passed != 3 {
		t.Errorf("%d requests passed, of a tenant that is granted 3", passed)
	}
	must[management.IssuedKey](t)(w.CreateKey(ctx, theirs, "", "acme", KeyFieldsOf{Name: some("second")}))
	_, err = w.CreateKey(ctx, theirs, "", "acme", KeyFieldsOf{Name: some("third")})
	wantRefused(t, err, http.StatusConflict, "key_limit_reached")
}

// Whoever sees one tenant only is told nothing by which to count what happens to the others.
func TestNoCountingOfOthers(t *testing.T) {
	w := newWorld(t)
	w.tenant("acme", "pro")
	w.tenant("zeta", "pro")
	for range 3 {
		w.key("acme")
	}
	for _, slug := range []string{"acme", "acme", "zeta"} {
		if _, err := w.AddCredits(ctx, ada, "", slug, 5, ""); err != nil {
			t.Fatal(err)
		}
	}
	theirs := ada
	theirs.Tenant = "acme"
	one := management.PageQuery{Limit: 1}
	page := must[management.Page[audit.Record]](t)(w.Audit(ctx, theirs, "", management.AuditFilter{PageQuery: one}))
	if page.Data[0].Seq != 0 || page.NextCursor == nil {
		t.Errorf("shown %+v", page)
	}
	if page := must[management.Page[audit.Record]](t)(w.Audit(ctx, ada, "", management.AuditFilter{PageQuery: one})); page.Data[0].Seq != 8 {
		t.Errorf("an operator is shown %+v", page)
	}
	ledger := must[management.CreditsRecord](t)(w.Credits(ctx, theirs, "", "acme", one))
	// Cursors are as long and as random for the first event as for a later one, and each list's own.
	cursors := []string{*page.NextCursor, *ledger.NextCursor}
	for range 2 {
		page = must[management.Page[audit.Record]](t)(w.Audit(ctx, theirs, "",
			management.AuditFilter{PageQuery: management.PageQuery{Limit: 1, Cursor: *page.NextCursor}}))
		cursors = append(cursors, *page.NextCursor)
	}
	for i, c := range cursors {
		if len(c) != 22 || i > 0 && strings.HasPrefix(c, cursors[0][:6]) {
			t.Errorf("cursors %q", cursors)
		}
	}
	bad := []string{"x", cursors[1], strings.Repeat("A", 22), cursors[0] + "A", strings.ToUpper(cursors[0])}
	for _, c := range bad {
		_, err := w.Audit(ctx, theirs, "", management.AuditFilter{PageQuery: management.PageQuery{Cursor: c}})
		wantRefused(t, err, http.StatusUnprocessableEntity, management.CodeInvalidField)
	}
	// Another manager of the store reads them.
	again := management.New(management.Config{Store: w.store, Engine: w.gw, View: w.current})
	must[management.Page[audit.Record]](t)(again.Audit(ctx, theirs, "", management.AuditFilter{PageQuery: management.PageQuery{Cursor: cursors[0]}}))
}
