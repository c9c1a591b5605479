package management_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/management/events"
	"github.com/keygate-dev/keygate/plugin/management/webhooks"
)

// clear is a Sealer that does not encrypt. The tests of package webhook check the encryption.
type clear struct{}

func (clear) Seal(plain []byte, _ string) ([]byte, error) { return plain, nil }
func (clear) Open(b []byte, _ string) ([]byte, error)     { return b, nil }

func newWebhookFixture(t testing.TB, s webhooks.Settings) *fixture {
	w := newFixture(t)
	w.Registry = webhooks.New(w.Manager, func(string) webhooks.Settings { return s })
	return w
}

func webhookAt(url string, events ...string) webhooks.Fields {
	f := webhooks.Fields{URL: management.Some(url)}
	if events != nil {
		f.Events = management.Some(events)
	}
	return f
}

func TestWebhooksNeedASecret(t *testing.T) {
	w := newWebhookFixture(t, webhooks.Settings{})
	_, err := w.CreateWebhook(ctx, ada, "", webhookAt("https://example.com/"))
	wantError(t, err, http.StatusUnprocessableEntity, webhooks.CodeOff)
	if !strings.Contains(err.Error(), "secret {env.KEYGATE_SECRET}") {
		t.Errorf("error %v", err)
	}
}

func TestWebhookFields(t *testing.T) {
	w := newWebhookFixture(t, webhooks.Settings{Sealer: clear{}})
	for _, url := range []string{
		"https://example.com", "http://example.com:8080/a?b=c", "https://[2606:4700:4700::1111]/", "https://8.8.8.8/x",
	} {
		if r, err := w.CreateWebhook(ctx, ada, "", webhookAt(url)); err != nil || r.URL != url || r.Events[0] != "*" || !r.Active {
			t.Errorf("%s: %+v, %v", url, r.Record, err)
		}
	}
	for _, url := range []string{
		"", "example.com", "/x", "ftp://example.com/", "file:///etc/passwd", "gopher://example.com/", "https://", "https:///x", "https:example.com",
		"https://user:pass@example.com/", "https://user@example.com/", "https://example.com/#x", "https://example.com/ x", "https://exa\nmple.com/",
		"http://localhost/", "http://LOCALHOST.:80/", "http://a.localhost/", "http://127.0.0.1/", "http://10.1.2.3/", "http://[::1]/",
		"http://169.254.169.254/latest/meta-data/", "http://[::ffff:127.0.0.1]/", "http://[fd00::1]/", "http://[fe80::1%25eth0]/", "http://0.0.0.0/",
		"https://example.com/" + strings.Repeat("x", 2048), "https://example.com:0/", "https://example.com:65536/",
	} {
		_, err := w.CreateWebhook(ctx, ada, "", webhookAt(url))
		wantError(t, err, http.StatusUnprocessableEntity, management.CodeInvalidField, "/url")
	}
	for _, events := range [][]string{{"*"}, {"key.*", "tenant.suspended", "job.finished", "job.*", "a.b.c_1"}} {
		if _, err := w.CreateWebhook(ctx, ada, "", webhookAt("https://example.com/", events...)); err != nil {
			t.Errorf("%q: %v", events, err)
		}
	}
	for _, bad := range []string{"", "key.made", "key", "key.", ".x", "Key.created", "webhook.created", "webhook.*", "job", "a..b", "*.created", "key.created ", "job.*.*", "**", "k*"} {
		_, err := w.CreateWebhook(ctx, ada, "", webhookAt("https://example.com/", "key.created", bad))
		wantError(t, err, http.StatusUnprocessableEntity, management.CodeInvalidField, "/events/1")
	}
	_, err := w.CreateWebhook(ctx, ada, "", webhooks.Fields{URL: management.Some("https://example.com/"), Events: management.Some([]string{})})
	wantError(t, err, http.StatusUnprocessableEntity, management.CodeInvalidField, "/events")
}

func TestWebhookLifecycle(t *testing.T) {
	w := newWebhookFixture(t, webhooks.Settings{Sealer: clear{}})
	w.tenant("acme", "free")
	made := testkit.Must[webhooks.Issued](t)(w.CreateWebhook(ctx, ada, "", webhooks.Fields{
		URL: management.Some("https://example.com/in?token=t"), Tenant: management.Some("ACME"),
	}))
	if *made.Tenant != "acme" || !strings.HasPrefix(made.ID, "whk_") {
		t.Errorf("made %+v", made)
	}
	_, err := w.UpdateWebhook(ctx, ada, "", made.ID, webhookAt("https://example.org/"), management.Match{7})
	wantError(t, err, http.StatusPreconditionFailed, management.CodePrecondition)
	_, err = w.UpdateWebhook(ctx, ada, "", made.ID, webhooks.Fields{Tenant: management.Some("other")}, nil)
	wantError(t, err, http.StatusUnprocessableEntity, management.CodeInvalidField, "/tenant")
	changed := testkit.Must[webhooks.Record](t)(w.UpdateWebhook(ctx, ada, "", made.ID, webhookAt("https://example.com/other", "key.*"), management.Match{1}))
	if changed.URL != "https://example.com/other" || changed.Version != 2 {
		t.Errorf("changed to %+v", changed)
	}
	w.key("acme")
	list := testkit.Must[management.Page[webhooks.DeliveryRecord]](t)(w.Deliveries(ctx, ada, "", made.ID, webhooks.DeliveryFilter{Status: webhooks.DeliveryPending}))
	if len(list.Data) != 1 || list.Data[0].EventType != "key.created" {
		t.Fatalf("deliveries %+v", list.Data)
	}
	testkit.Must[webhooks.Record](t)(w.UpdateWebhook(ctx, ada, "", made.ID, webhooks.Fields{Active: management.Some(false)}, nil))
	w.key("acme")
	list = testkit.Must[management.Page[webhooks.DeliveryRecord]](t)(w.Deliveries(ctx, ada, "", made.ID, webhooks.DeliveryFilter{}))
	if len(list.Data) != 1 || list.Data[0].Status != webhooks.DeliveryDead {
		t.Errorf("deliveries of an inactive webhook %+v", list.Data)
	}
	testkit.Must[webhooks.Issued](t)(w.RotateWebhookSecret(ctx, ada, "", made.ID))
	if err := w.DeleteWebhook(ctx, ada, "", made.ID, nil); err != nil {
		t.Fatal(err)
	}
	_, err = w.Webhook(ctx, ada, "", made.ID)
	wantError(t, err, http.StatusNotFound, management.CodeNotFound)

	var actions []string
	for _, a := range testkit.Must[management.Page[audit.Record]](t)(w.Audit(ctx, ada, "", management.AuditFilter{Tenant: "acme"})).Data {
		if strings.HasPrefix(a.Action, "webhook.") {
			actions = append(actions, strings.TrimPrefix(a.Action, "webhook."))
			if b, _ := json.Marshal(a); strings.Contains(string(b), "token=t") || strings.Contains(string(b), "whsec_") {
				t.Errorf("the audit holds %s", b)
			}
		}
	}
	if got := strings.Join(actions, " "); got != "deleted secret_rotated updated updated created" {
		t.Errorf("audit: %s", got)
	}
	w.wantIntact(-1)
}

func TestWebhooksAreBounded(t *testing.T) {
	w := newWebhookFixture(t, webhooks.Settings{Sealer: clear{}})
	w.tenant("acme", "free")
	for _, tenant := range []string{"", "acme"} {
		f := webhookAt("https://example.com/")
		if tenant != "" {
			f.Tenant = management.Some(tenant)
		}
		for range webhooks.MaxWebhooks {
			testkit.Must[webhooks.Issued](t)(w.CreateWebhook(ctx, ada, "", f))
		}
		_, err := w.CreateWebhook(ctx, ada, "", f)
		wantError(t, err, http.StatusConflict, webhooks.CodeLimitReached)
	}
	seen := 0
	for q := (webhooks.Filter{PageQuery: management.PageQuery{Limit: 7}}); ; {
		page := testkit.Must[management.Page[webhooks.Record]](t)(w.Webhooks(ctx, ada, "", q))
		seen += len(page.Data)
		if page.NextCursor == nil {
			break
		}
		q.Cursor = *page.NextCursor
	}
	if seen != 2*webhooks.MaxWebhooks {
		t.Errorf("listed %d webhooks, want %d", seen, 2*webhooks.MaxWebhooks)
	}
	// Deleting a tenant deletes its webhooks.
	if err := w.DeleteTenant(ctx, ada, "", "acme", true, nil); err != nil {
		t.Fatal(err)
	}
	page := testkit.Must[management.Page[webhooks.Record]](t)(w.Webhooks(ctx, ada, "", webhooks.Filter{PageQuery: management.PageQuery{Limit: 100}}))
	if len(page.Data) != webhooks.MaxWebhooks {
		t.Errorf("%d webhooks are left, want %d", len(page.Data), webhooks.MaxWebhooks)
	}
}

func TestPostEvent(t *testing.T) {
	w := newWebhookFixture(t, webhooks.Settings{Sealer: clear{}})
	w.tenant("acme", "free")
	testkit.Must[webhooks.Issued](t)(w.CreateWebhook(ctx, ada, "", webhookAt("https://example.com/", "job.*")))
	if r := testkit.Must[webhooks.PostedEvent](t)(w.PostEvent(ctx, ada, "", "acme", "job.finished", json.RawMessage(`{}`))); r.Deliveries != 1 {
		t.Errorf("taken as %+v", r)
	}
	if r := testkit.Must[webhooks.PostedEvent](t)(w.PostEvent(ctx, ada, "", "acme", "other.thing", nil)); r.Deliveries != 0 {
		t.Errorf("taken as %+v", r)
	}
	for _, bad := range []string{"", "job", ".", "a.", ".b", "a..b", "A.b", "a.b-c", "key.created", "tenant.x", "limit.reached", "webhook.deleted", "a." + strings.Repeat("b", 63)} {
		_, err := w.PostEvent(ctx, ada, "", "acme", bad, nil)
		wantError(t, err, http.StatusUnprocessableEntity, management.CodeInvalidField, "/type")
	}
	large := json.RawMessage(`{"a":"` + strings.Repeat("x", webhooks.MaxEventData) + `"}`)
	for _, data := range []json.RawMessage{large, json.RawMessage(`[]`), json.RawMessage(`"x"`), json.RawMessage(`{`)} {
		_, err := w.PostEvent(ctx, ada, "", "acme", "job.finished", data)
		wantError(t, err, http.StatusUnprocessableEntity, management.CodeInvalidField, "/data")
	}
	_, err := w.PostEvent(ctx, ada, "", "missing", "job.finished", nil)
	wantError(t, err, http.StatusNotFound, management.CodeNotFound)
}

// TestRejectedWritesPublishNothing proves that a change that is not committed publishes no event.
func TestRejectedWritesPublishNothing(t *testing.T) {
	w := newWebhookFixture(t, webhooks.Settings{Sealer: clear{}})
	w.tenant("acme", "free")
	hook := testkit.Must[webhooks.Issued](t)(w.CreateWebhook(ctx, ada, "", webhookAt("https://example.com/")))
	for range 5 {
		_, _ = w.CreateKey(ctx, ada, "", "acme", management.KeyFields{Name: management.Some("k")}) // The plan allows 3 keys.
	}
	boom := errors.New("boom")
	if err := w.store.Update(ctx, func(tx management.Tx) error {
		if err := tx.InsertEvent(&events.EventRow{Event: events.Event{ID: "evt_x", Keyspace: "default", Type: "a.b", Data: json.RawMessage("{}")}}); err != nil {
			return err
		}
		return boom
	}); !errors.Is(err, boom) {
		t.Fatal(err)
	}
	list := testkit.Must[management.Page[webhooks.DeliveryRecord]](t)(w.Deliveries(ctx, ada, "", hook.ID, webhooks.DeliveryFilter{}))
	if len(list.Data) != 3 {
		t.Errorf("%d deliveries, want 3", len(list.Data))
	}
}

// FuzzWebhookURL proves that every accepted URL has the scheme http or https, names a host, and
// names no address that is not public.
func FuzzWebhookURL(f *testing.F) {
	for _, s := range []string{"https://example.com/", "http://127.0.0.1", "http://[::1]:80/", "https://a@b/", "http://0x7f.1/", "https://[fe80::1%25a]/", "HTTP://EXAMPLE.COM"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if webhooks.CheckURL(s, webhooks.Reach{}) != "" {
			return
		}
		r, err := http.NewRequest(http.MethodPost, s, nil)
		if err != nil {
			t.Fatalf("%q was taken and can't be used: %v", s, err)
		}
		if r.URL.Scheme != "http" && r.URL.Scheme != "https" || r.URL.Hostname() == "" || r.URL.User != nil {
			t.Fatalf("%q was taken", s)
		}
		if a := gateway.Addr(r.URL.Hostname()); a.IsValid() && !webhooks.PublicAddr(a) {
			t.Fatalf("%q was taken", s)
		}
	})
}
