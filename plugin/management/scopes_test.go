package management_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/management/webhooks"
)

// TestSubscribingNeedsReadScopes proves that a webhook does not receive what its token can't read.
func TestSubscribingNeedsReadScopes(t *testing.T) {
	w := newWebhookFixture(t, webhooks.Settings{Sealer: clear{}})
	w.tenant("acme", "free")
	const url = "https://example.com/"
	actor := func(tenant string, scopes ...string) management.Actor {
		return w.grant(w.token(nil, tokenOf(tenant, append(scopes, "webhooks:read", "webhooks:write")...)).Token).Actor("192.0.2.1")
	}
	writer := actor("")
	for _, tenant := range []string{"", "acme"} {
		for n, tt := range []struct {
			events string // events are patterns separated by spaces; "" for the default.
			needs  string
		}{
			{"", "keys:read tenants:read"}, {"*", "keys:read tenants:read"},
			{"key.created", "keys:read"}, {"key.*", "keys:read"}, {"key.leaked", "keys:read"}, {"limit.reached", "keys:read"},
			{"tenant.updated", "tenants:read"}, {"tenant.*", "tenants:read"}, {"credits.threshold", "tenants:read"},
			{"quota.*", "keys:read tenants:read"}, {"audit.head", "audit:read"}, {"audit.*", "audit:read"},
			{"job.finished", ""}, {"job.*", ""}, {"job.finished key.created", "keys:read"},
		} {
			if tenant != "" && n%3 != 0 {
				continue // For an operator's token, the same rule holds for a webhook of one tenant, so this case is skipped.
			}
			var events []string
			if tt.events != "" {
				events = strings.Fields(tt.events)
			}
			needs := strings.Fields(tt.needs)
			if _, err := w.CreateWebhook(ctx, actor(tenant, needs...), "", webhookAt(url, events...)); err != nil {
				t.Errorf("%q with %q: %v", tt.events, tt.needs, err)
			}
			for i := range needs {
				lacking := append(append([]string{"usage:read", "keys:write", "verify"}, needs[:i]...), needs[i+1:]...)
				_, err := w.CreateWebhook(ctx, actor(tenant, lacking...), "", webhookAt(url, events...))
				wantError(t, err, http.StatusForbidden, management.CodeInsufficientScope, map[bool]string{true: "/events/1", false: "/events/0"}[len(events) == 2])
				if !strings.Contains(err.Error(), needs[i]) {
					t.Errorf("%q without %s: %v", tt.events, needs[i], err)
				}
			}
			hooks := testkit.Must[management.Page[webhooks.Record]](t)(w.Webhooks(ctx, ada, "", webhooks.Filter{}))
			for _, h := range hooks.Data { // The number of webhooks is bounded.
				if err := w.DeleteWebhook(ctx, ada, "", h.ID, nil); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if _, err := w.CreateWebhook(ctx, actor("", "*"), "", webhookAt(url)); err != nil {
		t.Errorf("with *: %v", err)
	}

	// The token can't add types to a webhook of another token, change its URL or make it active.
	// It may remove types and delete the webhook.
	h := testkit.Must[webhooks.Issued](t)(w.CreateWebhook(ctx, ada, "", webhookAt(url, "key.*")))
	for what, f := range map[string]webhooks.Fields{
		"url": {URL: management.Some("https://eve.example/")}, "events": {Events: management.Some([]string{"key.*", "job.finished"})},
		"active": {Active: management.Some(true)}, "all": {Events: management.Optional[[]string]{Set: true, Null: true}},
	} {
		_, err := w.UpdateWebhook(ctx, writer, "", h.ID, f, nil)
		if wantError(t, err, http.StatusForbidden, management.CodeInsufficientScope); t.Failed() {
			t.Fatal(what)
		}
	}
	if r := testkit.Must[webhooks.Record](t)(w.Webhook(ctx, ada, "", h.ID)); r.URL != url || len(r.Events) != 1 {
		t.Errorf("changed to %+v", r)
	}
	testkit.Must[webhooks.Record](t)(w.UpdateWebhook(ctx, writer, "", h.ID, webhooks.Fields{Active: management.Some(false)}, nil))
	testkit.Must[webhooks.Record](t)(w.UpdateWebhook(ctx, writer, "", h.ID, webhooks.Fields{Events: management.Some([]string{"job.finished"})}, nil))
}

// TestKeysWithoutLimitsLoosenNothing proves that a tenant's limits hold for all its keys,
// whichever limits of their own the keys have.
func TestKeysWithoutLimitsLoosenNothing(t *testing.T) {
	w := newFixture(t)
	w.configure("free", 2, "free")
	quota := management.Some("3/month")
	testkit.Must[management.TenantRecord](t)(w.CreateTenant(ctx, ada, "", "acme", tenantFields{Quota: quota}))
	limited := w.key("acme", func(f *keyFields) { f.Quota = management.Some("1/month") })
	theirs := w.grant(w.token(nil, tokenOf("acme", "*")).Token).Actor("192.0.2.1")
	_, err := w.UpdateKey(ctx, theirs, "", limited.ID, keyFields{Quota: management.Optional[string]{Set: true, Null: true}}, nil)
	wantError(t, err, http.StatusForbidden, management.CodeInsufficientScope, "/quota")
	passed := 0
	for range 3 { // Each round uses a new key that has no limits.
		k := testkit.Must[management.IssuedKey](t)(w.CreateKey(ctx, theirs, "", "acme", keyFields{Name: some("free")}))
		for range 3 {
			if w.check(k.Key).String() == "allowed" {
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
	testkit.Must[management.IssuedKey](t)(w.CreateKey(ctx, theirs, "", "acme", keyFields{Name: some("second")}))
	_, err = w.CreateKey(ctx, theirs, "", "acme", keyFields{Name: some("third")})
	wantError(t, err, http.StatusConflict, "key_limit_reached")
}

// TestNoCountingOfOthers proves that no number in a response lets an actor of one tenant count the
// changes of others.
func TestNoCountingOfOthers(t *testing.T) {
	w := newFixture(t)
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
	page := testkit.Must[management.Page[audit.Record]](t)(w.Audit(ctx, theirs, "", management.AuditFilter{PageQuery: one}))
	if page.Data[0].Seq != 0 || page.NextCursor == nil {
		t.Errorf("shown %+v", page)
	}
	if page := testkit.Must[management.Page[audit.Record]](t)(w.Audit(ctx, ada, "", management.AuditFilter{PageQuery: one})); page.Data[0].Seq != 8 {
		t.Errorf("an operator is shown %+v", page)
	}
	ledger := testkit.Must[management.CreditsRecord](t)(w.Credits(ctx, theirs, "", "acme", one))
	// The cursors of the first event and of a later one look equally random. A cursor is valid in
	// one list only.
	cursors := []string{*page.NextCursor, *ledger.NextCursor}
	for range 2 {
		page = testkit.Must[management.Page[audit.Record]](t)(w.Audit(ctx, theirs, "",
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
		wantError(t, err, http.StatusUnprocessableEntity, management.CodeInvalidField)
	}
	// Another manager of the same store accepts the cursors.
	again := management.New(management.Config{Store: w.store, Engine: w.gw, View: w.current})
	testkit.Must[management.Page[audit.Record]](t)(again.Audit(ctx, theirs, "", management.AuditFilter{PageQuery: management.PageQuery{Cursor: cursors[0]}}))
}
