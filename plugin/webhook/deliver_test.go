package webhook_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/management/webhooks"
	"github.com/keygate-dev/keygate/plugin/webhook"
)

// verify checks a delivery as a receiver does. It is written from the specification, not from the code.
func verify(secret string, p post) error {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil || len(key) < 24 || len(key) > 64 || !strings.HasPrefix(secret, "whsec_") {
		return fmt.Errorf("a secret of %d bytes: %v", len(key), err)
	}
	id, at := p.header["Webhook-Id"], p.header["Webhook-Timestamp"]
	if len(id) != 1 || len(at) != 1 || strings.Contains(id[0], ".") {
		return fmt.Errorf("headers %v", p.header)
	}
	sent, err := strconv.ParseInt(at[0], 10, 64)
	if err != nil || time.Since(time.Unix(sent, 0)).Abs() > 5*time.Minute {
		return fmt.Errorf("timestamp %s", at[0])
	}
	for _, s := range strings.Split(p.header.Get("Webhook-Signature"), " ") {
		version, encoded, _ := strings.Cut(s, ",")
		got, err := base64.StdEncoding.DecodeString(encoded)
		if version != "v1" || err != nil {
			return fmt.Errorf("signature %q", s)
		}
		mac := hmac.New(sha256.New, key)
		fmt.Fprintf(mac, "%s.%s.%s", id[0], at[0], p.body)
		if hmac.Equal(got, mac.Sum(nil)) {
			return nil
		}
	}
	return errors.New("no signature was made with the secret")
}

func TestSignFollowsTheSpecification(t *testing.T) {
	// This is the example of the specification's reference libraries.
	got, err := webhook.Sign("msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`),
		"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; err != nil || got != want {
		t.Errorf("signed %s, %v, want %s", got, err, want)
	}
	if _, err := webhook.Sign("msg_1", time.Now(), nil, "whsec_%%"); err == nil {
		t.Error("Sign accepted a text that is not a secret")
	}
}

func TestDeliversSubscribedEvents(t *testing.T) {
	w := newFixture(t)
	e := newEndpoint(t, nil)
	w.start()
	w.tenant("acme", "pro") // no webhook exists yet
	hook := w.hook(e.URL+"/in?token=t", "", "key.*", "job.finished")
	k := w.key("acme")
	testkit.Must[webhooks.PostedEvent](t)(w.PostEvent(ctx, ada, "", "ACME", "job.finished", json.RawMessage(`{"job": "<1>", "n": 5}`)))
	testkit.Must[webhooks.PostedEvent](t)(w.PostEvent(ctx, ada, "", "acme", "job.started", nil))
	if _, err := w.RotateKey(ctx, ada, "", k.ID, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := w.RevokeKey(ctx, ada, "", k.ID); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(w.t, "four events", func() bool { return len(e.got()) >= 4 })
	want := map[string]bool{"key.created": true, "key.rotated": true, "key.revoked": true, "job.finished": true}
	ids := map[string]bool{}
	for _, p := range e.got() {
		if !want[p.Type] {
			t.Errorf("got %s", p.body)
		}
		delete(want, p.Type)
		if err := verify(hook.Secret, p); err != nil {
			t.Errorf("%s: %v", p.Type, err)
		}
		if ct := p.header.Get("Content-Type"); ct != "application/json" {
			t.Errorf("Content-Type %q", ct)
		}
		id := p.header.Get("Webhook-Id")
		if !strings.HasPrefix(id, "evt_") || ids[id] {
			t.Errorf("webhook-id %q, others %v", id, ids)
		}
		ids[id] = true
		if bytes.Contains(p.body, []byte(k.Key)) || bytes.Contains(p.body, []byte(hook.Secret)) || bytes.Contains(p.body, []byte("192.0.2.1")) {
			t.Errorf("a secret, or an address, is in %s", p.body)
		}
		switch p.Type {
		case "job.finished":
			if string(p.Data) != `{"job":"<1>","n":5}` {
				t.Errorf("data %s", p.Data)
			}
		case "key.created":
			if p.field(t, "tenant") != "acme" || p.field(t, "key_id") != k.ID || p.field(t, "actor") != "ada" || p.field(t, "before") != nil {
				t.Errorf("data %s", p.Data)
			}
		}
	}
	testkit.Eventually(w.t, "all results are stored", func() bool {
		for _, d := range w.deliveries(hook.ID) {
			if d.Status != webhooks.DeliveryDone || d.Attempts != 1 || d.ResponseStatus == nil || *d.ResponseStatus != 204 || d.NextAttemptAt != nil {
				return false
			}
		}
		return true
	})
	// An event has the same id in the audit as in the delivery.
	audit := testkit.Must[management.Page[audit.Record]](t)(w.Audit(ctx, ada, "", management.AuditFilter{Key: k.ID}))
	for _, a := range audit.Data {
		if !ids[a.ID] {
			t.Errorf("audit event %s was delivered under another id: %v", a.ID, ids)
		}
	}
}

func TestRetries(t *testing.T) {
	w := newFixture(t)
	over := make(chan struct{})
	defer close(over)
	e := newEndpoint(t, func(n int, rw http.ResponseWriter, r *http.Request) {
		switch n {
		case 0:
			rw.WriteHeader(http.StatusInternalServerError)
		case 1: // The endpoint does not answer.
			select {
			case <-over:
			case <-r.Context().Done():
			}
		case 2: // The endpoint breaks off its answer.
			panic(http.ErrAbortHandler)
		default:
			rw.WriteHeader(http.StatusOK)
		}
	})
	w.start(func(o *webhook.Options) { o.Timeout = 100 * time.Millisecond })
	w.tenant("acme", "pro")
	hook := w.hook(e.URL, "")
	w.key("acme")
	testkit.Eventually(w.t, "it is delivered", func() bool { return w.deliveries(hook.ID)[0].Status == webhooks.DeliveryDone })
	got := e.got()
	if len(got) != 4 {
		t.Fatalf("%d attempts, want 4", len(got))
	}
	for _, p := range got {
		if err := verify(hook.Secret, p); err != nil {
			t.Error(err)
		}
		if !bytes.Equal(p.body, got[0].body) || p.header.Get("Webhook-Id") != got[0].header.Get("Webhook-Id") {
			t.Errorf("an attempt differs from the first: %s", p.body)
		}
	}
}

func TestDeadAndReplayed(t *testing.T) {
	w := newFixture(t)
	e := newEndpoint(t, status(http.StatusBadGateway))
	w.start(func(o *webhook.Options) { o.Schedule = quickly(2) })
	w.tenant("acme", "pro")
	hook := w.hook(e.URL, "acme")
	w.key("acme")
	testkit.Eventually(w.t, "it is dead", func() bool { return w.deliveries(hook.ID)[0].Status == webhooks.DeliveryDead })
	d := w.deliveries(hook.ID)[0]
	if len(e.got()) != 3 || d.Attempts != 3 || d.Error == nil || *d.Error != "answered 502 Bad Gateway" {
		t.Errorf("%d posts, delivery %+v", len(e.got()), d)
	}
	e.answers(nil)
	testkit.Must[webhooks.DeliveryRecord](t)(w.ReplayDelivery(ctx, ada, "", hook.ID, d.ID))
	testkit.Eventually(w.t, "it is delivered", func() bool { return w.deliveries(hook.ID)[0].Status == webhooks.DeliveryDone })
	if got := e.got(); len(got) != 4 || got[3].header.Get("Webhook-Id") != got[0].header.Get("Webhook-Id") {
		t.Errorf("%d posts, want the fourth under the same id", len(got))
	}
	// A delivery that succeeded can be replayed too.
	testkit.Must[webhooks.DeliveryRecord](t)(w.ReplayDelivery(ctx, ada, "", hook.ID, d.ID))
	testkit.Eventually(w.t, "it is delivered again", func() bool { return len(e.got()) == 5 })
	replays := 0
	for _, r := range testkit.Must[management.Page[audit.Record]](t)(w.Audit(ctx, ada, "", management.AuditFilter{Tenant: "acme"})).Data {
		if r.Action == "webhook.delivery_replayed" {
			replays++
			if r.Target != d.ID || r.Actor != ada.Name || r.After["webhook"] != hook.ID || r.After["event_id"] != d.EventID || r.After["event_type"] != "key.created" {
				t.Errorf("audit record %+v", r)
			}
		}
	}
	if replays != 2 {
		t.Errorf("%d replays in the audit, want 2", replays)
	}
}

func TestRestartRepeatsUnfinishedAttempts(t *testing.T) {
	for _, crash := range []bool{false, true} {
		t.Run(fmt.Sprint("crash ", crash), func(t *testing.T) {
			w := newFixture(t)
			hang := make(chan struct{})
			e := newEndpoint(t, func(n int, rw http.ResponseWriter, r *http.Request) {
				if n > 0 {
					rw.WriteHeader(http.StatusOK)
					return
				}
				select {
				case <-hang:
				case <-r.Context().Done():
				}
			})
			defer close(hang)
			w.start(func(o *webhook.Options) { o.Timeout = time.Minute })
			w.tenant("acme", "pro")
			hook := w.hook(e.URL, "")
			w.key("acme")
			testkit.Eventually(w.t, "the first attempt", func() bool { return len(e.got()) == 1 })
			if crash {
				// The first Service can store no result, and its claim lasts for another minute.
				old := w.service
				t.Cleanup(func() { _ = old.Close(ctx) })
			} else {
				w.stop()
			}
			w.start()
			testkit.Eventually(w.t, "it is delivered", func() bool { return w.deliveries(hook.ID)[0].Status == webhooks.DeliveryDone })
			if got := e.got(); len(got) != 2 || !bytes.Equal(got[0].body, got[1].body) {
				t.Errorf("%d posts, want the same one twice", len(got))
			}
		})
	}
}

// Events that were stored while no Service ran are delivered later.
func TestDeliversStoredEvents(t *testing.T) {
	w := newFixture(t)
	e := newEndpoint(t, nil)
	w.tenant("acme", "pro")
	hook := w.hook(e.URL, "", "key.created")
	for range 30 {
		w.key("acme")
	}
	w.start()
	testkit.Eventually(w.t, "all are delivered", func() bool { return len(e.got()) == 30 })
	for _, p := range e.got() {
		if err := verify(hook.Secret, p); err != nil {
			t.Error(err)
		}
	}
}

func TestGoneDisables(t *testing.T) {
	w := newFixture(t)
	e := newEndpoint(t, status(http.StatusGone))
	w.start()
	w.tenant("acme", "pro")
	hook := w.hook(e.URL, "")
	w.key("acme")
	testkit.Eventually(w.t, "it is disabled", func() bool {
		return !testkit.Must[webhooks.Record](t)(w.Webhook(ctx, ada, "", hook.ID)).Active
	})
	r := testkit.Must[webhooks.Record](t)(w.Webhook(ctx, ada, "", hook.ID))
	if r.DisabledReason == nil || !strings.Contains(*r.DisabledReason, "410") {
		t.Errorf("disabled because %v", r.DisabledReason)
	}
	w.key("acme")
	if n := len(w.deliveries(hook.ID)); n != 1 {
		t.Errorf("%d deliveries, want the first alone", n)
	}
	var e409 *management.Error
	if _, err := w.ReplayDelivery(ctx, ada, "", hook.ID, w.deliveries(hook.ID)[0].ID); !errors.As(err, &e409) || e409.Status != http.StatusConflict {
		t.Errorf("replayed to a disabled webhook: %v", err)
	}
	e.answers(nil)
	testkit.Must[webhooks.Record](t)(w.UpdateWebhook(ctx, ada, "", hook.ID, webhooks.Fields{Active: management.Some(true)}, nil))
	w.key("acme")
	testkit.Eventually(w.t, "it receives events again", func() bool { return w.deliveries(hook.ID)[0].Status == webhooks.DeliveryDone })
}

func TestRotatesSecret(t *testing.T) {
	w := newFixture(t)
	e := newEndpoint(t, nil)
	w.start()
	w.tenant("acme", "pro")
	first := w.hook(e.URL, "", "key.created")
	second := testkit.Must[webhooks.Issued](t)(w.RotateWebhookSecret(ctx, ada, "", first.ID))
	if second.Secret == first.Secret || second.PreviousSecretUntil == nil {
		t.Errorf("rotated to %+v", second.Record)
	}
	w.key("acme")
	testkit.Eventually(w.t, "an event", func() bool { return len(e.got()) == 1 })
	for _, secret := range []string{first.Secret, second.Secret} {
		if err := verify(secret, e.got()[0]); err != nil {
			t.Error(err)
		}
	}
	w.clock.Advance(webhooks.Grace + time.Minute)
	w.key("acme")
	testkit.Eventually(w.t, "another", func() bool { return len(e.got()) == 2 })
	p := e.got()[1]
	if n := len(strings.Fields(p.header.Get("Webhook-Signature"))); n != 1 {
		t.Errorf("%d signatures after the grace, want 1", n)
	}
}

// An endpoint that never answers does not delay the others.
func TestSlowEndpointDelaysNoOther(t *testing.T) {
	w := newFixture(t)
	hang := make(chan struct{})
	defer close(hang)
	var now, most atomic.Int64
	slow := newEndpoint(t, func(_ int, rw http.ResponseWriter, r *http.Request) {
		n := now.Add(1)
		defer now.Add(-1)
		for {
			if m := most.Load(); n <= m || most.CompareAndSwap(m, n) {
				break
			}
		}
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	})
	quick := newEndpoint(t, nil)
	w.start(func(o *webhook.Options) { o.Timeout = time.Minute })
	w.tenant("acme", "pro")
	w.hook(slow.URL, "", "key.created")
	w.hook(quick.URL, "", "key.created")
	for range 40 {
		w.key("acme")
	}
	testkit.Eventually(w.t, "the quick one has all", func() bool { return len(quick.got()) == 40 })
	if n := most.Load(); n < 1 || n > 4 {
		t.Errorf("%d attempts at once at the slow endpoint, want 1 to 4", n)
	}
}

func TestTenantsReceiveTheirOwnEvents(t *testing.T) {
	w := newFixture(t)
	e := newEndpoint(t, nil)
	all := newEndpoint(t, nil)
	w.start()
	w.tenant("acme", "pro")
	w.tenant("other", "pro")
	confined := management.Actor{Name: "acme's token", Via: "api", Tenant: "acme"}
	hook := testkit.Must[webhooks.Issued](t)(w.CreateWebhook(ctx, confined, "", webhooks.Fields{URL: management.Some(e.URL)}))
	if hook.Tenant == nil || *hook.Tenant != "acme" {
		t.Fatalf("the webhook is of %v", hook.Tenant)
	}
	wide := w.hook(all.URL, "")
	others := w.hook(all.URL, "other")
	mine := w.key("acme")
	w.key("other")
	testkit.Must[webhooks.PostedEvent](t)(w.PostEvent(ctx, ada, "", "other", "job.finished", nil))
	testkit.Eventually(w.t, "the other endpoint has all events", func() bool { return len(all.got()) == 5 })
	testkit.Eventually(w.t, "acme has its own event", func() bool { return len(e.got()) == 1 })
	if p := e.got()[0]; p.field(t, "key_id") != mine.ID {
		t.Errorf("acme received %s", p.body)
	}

	// A token of one tenant can't see or change the webhooks of others.
	for _, id := range []string{wide.ID, others.ID} {
		for name, err := range map[string]error{
			"get":    second(w.Webhook(ctx, confined, "", id)),
			"update": second(w.UpdateWebhook(ctx, confined, "", id, webhooks.Fields{Active: management.Some(false)}, nil)),
			"rotate": second(w.RotateWebhookSecret(ctx, confined, "", id)),
			"list":   second(w.Deliveries(ctx, confined, "", id, webhooks.DeliveryFilter{})),
			"replay": second(w.ReplayDelivery(ctx, confined, "", hook.ID, w.deliveries(id)[0].ID)),
			"delete": w.DeleteWebhook(ctx, confined, "", id, nil),
		} {
			var e *management.Error
			if !errors.As(err, &e) || e.Status != http.StatusNotFound {
				t.Errorf("%s of another's webhook: %v, want a 404", name, err)
			}
		}
	}
	list := testkit.Must[management.Page[webhooks.Record]](t)(w.Webhooks(ctx, confined, "", webhooks.Filter{}))
	if len(list.Data) != 1 || list.Data[0].ID != hook.ID {
		t.Errorf("lists %+v", list.Data)
	}
	if list := testkit.Must[management.Page[webhooks.Record]](t)(w.Webhooks(ctx, confined, "", webhooks.Filter{Tenant: "other"})); len(list.Data) != 0 {
		t.Errorf("lists %+v", list.Data)
	}
	var rejected [2]string
	for i, slug := range []string{"other", "nobody"} {
		_, err := w.CreateWebhook(ctx, confined, "", webhooks.Fields{URL: management.Some(e.URL), Tenant: management.Some(slug)})
		if err == nil {
			t.Errorf("made a webhook of %s", slug)
			continue
		}
		rejected[i] = err.Error()
		if _, err := w.PostEvent(ctx, confined, "", slug, "job.finished", nil); err == nil {
			t.Errorf("posted an event of %s", slug)
		}
	}
	if rejected[0] != rejected[1] {
		t.Errorf("the errors disclose that a tenant exists: %q and %q", rejected[0], rejected[1])
	}
}

func second[T any](_ T, err error) error { return err }

func TestRedirectsAreNotFollowed(t *testing.T) {
	w := newFixture(t)
	inside := newEndpoint(t, nil)
	e := newEndpoint(t, func(_ int, rw http.ResponseWriter, r *http.Request) {
		http.Redirect(rw, r, inside.URL, http.StatusTemporaryRedirect)
	})
	w.start(func(o *webhook.Options) { o.Schedule = quickly(1) })
	w.tenant("acme", "pro")
	hook := w.hook(e.URL, "")
	w.key("acme")
	testkit.Eventually(w.t, "it is dead", func() bool { return w.deliveries(hook.ID)[0].Status == webhooks.DeliveryDead })
	if len(inside.got()) != 0 {
		t.Error("the redirect was followed")
	}
}

// An endless response is not read to its end. Its status 200 accepts the delivery.
func TestEndlessResponseIsNotReadToItsEnd(t *testing.T) {
	w := newFixture(t)
	e := newEndpoint(t, func(_ int, rw http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := rw.Write(make([]byte, 4096)); err != nil {
				return
			}
		}
	})
	w.start(func(o *webhook.Options) { o.Timeout = time.Minute })
	w.tenant("acme", "pro")
	hook := w.hook(e.URL, "")
	w.key("acme")
	testkit.Eventually(w.t, "it is delivered", func() bool { return w.deliveries(hook.ID)[0].Status == webhooks.DeliveryDone })
}

func TestSecretsAtRest(t *testing.T) {
	w := newFixture(t)
	e := newEndpoint(t, nil)
	w.start()
	w.tenant("acme", "pro")
	first := w.hook(e.URL, "")
	second := testkit.Must[webhooks.Issued](t)(w.RotateWebhookSecret(ctx, ada, "", first.ID))
	w.key("acme")
	testkit.Eventually(w.t, "it is delivered", func() bool { return w.deliveries(first.ID)[0].Status == webhooks.DeliveryDone })
	shown, err := json.Marshal([]any{
		testkit.Must[webhooks.Record](t)(w.Webhook(ctx, ada, "", first.ID)),
		testkit.Must[management.Page[webhooks.Record]](t)(w.Webhooks(ctx, ada, "", webhooks.Filter{})),
		w.deliveries(first.ID),
		testkit.Must[management.Page[audit.Record]](t)(w.Audit(ctx, ada, "", management.AuditFilter{})),
	})
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(w.path + "*")
	if err != nil || len(files) == 0 {
		t.Fatalf("no database: %v", err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		shown = append(shown, b...)
	}
	for _, secret := range []string{first.Secret, second.Secret} {
		encoded := strings.TrimPrefix(secret, "whsec_")
		raw := testkit.Must[[]byte](t)(base64.StdEncoding.DecodeString(encoded))
		if bytes.Contains(shown, []byte(encoded)) || bytes.Contains(shown, raw) {
			t.Error("a secret is in a record or in the database")
		}
	}
	if !bytes.Contains(shown, []byte(first.ID)) {
		t.Error("the webhook is not in the texts that the test searches")
	}
}

// No event is lost while the configuration has a wrong secret: deliveries wait for the right one.
func TestWrongSecretDelaysDelivery(t *testing.T) {
	w := newFixture(t)
	e := newEndpoint(t, nil)
	w.tenant("acme", "pro")
	hook := w.hook(e.URL, "")
	right := w.current("")
	w.configure(func(s *webhooks.Settings) {
		s.Sealer = testkit.Must[*webhook.Vault](t)(webhook.NewVault("another secret of enough bytes"))
	})
	w.start(func(o *webhook.Options) { o.Schedule = quickly(1000) })
	w.key("acme")
	testkit.Eventually(w.t, "it fails", func() bool { d := w.deliveries(hook.ID)[0]; return d.Error != nil })
	if d := w.deliveries(hook.ID)[0]; !strings.Contains(*d.Error, "can't be decrypted") || len(e.got()) != 0 {
		t.Errorf("failed with %s, %d posts", *d.Error, len(e.got()))
	}
	w.configure(func(s *webhooks.Settings) { *s = right })
	testkit.Eventually(w.t, "it is delivered", func() bool { return len(e.got()) > 0 })
	if err := verify(hook.Secret, e.got()[0]); err != nil {
		t.Error(err)
	}
}

func TestVault(t *testing.T) {
	if _, err := webhook.NewVault("fifteen bytes.."); err == nil {
		t.Error("NewVault accepted a secret of 15 bytes")
	}
	v := testkit.Must[*webhook.Vault](t)(webhook.NewVault("sixteen bytes..."))
	a, b := testkit.Must[[]byte](t)(v.Seal([]byte("plain"), "p")), testkit.Must[[]byte](t)(v.Seal([]byte("plain"), "p"))
	if bytes.Equal(a, b) || bytes.Contains(a, []byte("plain")) {
		t.Errorf("sealed %x and %x", a, b)
	}
	if got := testkit.Must[[]byte](t)(v.Open(a, "p")); string(got) != "plain" {
		t.Errorf("opened %q", got)
	}
	if _, err := v.Open(a, "q"); err == nil {
		t.Error("opened for another purpose")
	}
	for i := range a {
		damaged := bytes.Clone(a)
		damaged[i] ^= 1
		if _, err := v.Open(damaged, "p"); err == nil {
			t.Errorf("opened with byte %d changed", i)
		}
	}
	if _, err := v.Open(nil, "p"); err == nil {
		t.Error("opened nothing")
	}
}
