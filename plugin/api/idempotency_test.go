package api_test

import (
	"crypto/sha256"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/idempotency"
)

const idempotencyKey = "Idempotency-Key"

// wantReplay checks that again repeats the response first, but shows no secrets.
func wantReplay(t *testing.T, first, again answer) map[string]any {
	t.Helper()
	if again.header.Get("Idempotent-Replayed") != "true" || first.header.Get("Idempotent-Replayed") != "" {
		t.Errorf("Idempotent-Replayed: first %q, again %q", first.header.Get("Idempotent-Replayed"), again.header.Get("Idempotent-Replayed"))
	}
	if first.header.Get("ETag") != again.header.Get("ETag") {
		t.Errorf("ETag %q, then %q", first.header.Get("ETag"), again.header.Get("ETag"))
	}
	was, is := first.want(first.status), again.want(first.status)
	for name, v := range was {
		switch name {
		case "key", "token", "secret", "curl":
			if got, there := is[name]; got != nil || !there {
				t.Errorf("%s is shown again: %v", name, got)
			}
			if is["code"] != "secret_already_shown" {
				t.Errorf("code %v", is["code"])
			}
			if strings.Contains(again.body, v.(string)) {
				t.Errorf("the secret is in %s", again.body)
			}
		case "confirmed", "pending", "scopes", "effective_scopes", "allowed_ips", "secrets", "metadata", "allowed_scopes":
		default:
			if is[name] != v {
				t.Errorf("%s was %v, is %v", name, v, is[name])
			}
		}
	}
	return is
}

func TestIdempotentReplay(t *testing.T) {
	w := newFixture(t)
	for i, r := range [][2]string{
		{"/v1/tenants", `{"slug":"acme","plan":"pro"}`}, {"/v1/tenants/acme/credits", `{"add":5}`}, {"/v1/tenants/acme/keys", keyBody},
		{"/v1/tokens", `{"name":"n","scopes":["*"]}`}, {"/v1/keys/ID/rotate", ""}, {"/v1/keys/ID/disable", ""}, {"/v1/keys/ID/enable", "{}"},
		{"/v1/keys/ID/revoke", ""},
	} {
		path := r[0]
		if strings.Contains(path, "ID") {
			list := w.send("GET", "/v1/keys", "").want(200)["data"].([]any)
			path = strings.Replace(path, "ID", list[0].(map[string]any)["id"].(string), 1)
		}
		key := strings.Repeat("k", i+1)
		first := w.send("POST", path, r[1], idempotencyKey, key)
		events := len(w.send("GET", "/v1/audit", "").want(200)["data"].([]any))
		wantReplay(t, first, w.send("POST", path, r[1], idempotencyKey, key))
		if n := len(w.send("GET", "/v1/audit", "").want(200)["data"].([]any)); n != events {
			t.Errorf("%s: the replay changed something", path)
		}
		w.send("POST", path, r[1]+" ", idempotencyKey, key).wantProblem(422, "idempotency_key_reused", "")
		// The request is repeated after a simulated crash between the change and the storing of
		// the response.
		w.crashed("admin ada", key, time.Now())
		wantReplay(t, first, w.send("POST", path, r[1], idempotencyKey, key))
	}
	for _, key := range []string{" ", "a b", "ü", strings.Repeat("x", 256)} {
		w.send("POST", "/v1/tenants", `{"slug":"x"}`, idempotencyKey, key).wantProblem(422, "invalid_field", idempotencyKey)
	}
	w.send("POST", "/v1/tenants", `{"slug":"x"}`, idempotencyKey, "a", idempotencyKey, "b").wantProblem(422, "invalid_field", idempotencyKey)
}

// crashed changes the stored record of a request as if the process that carried it out had been
// killed before it stored the response.
func (w *fixture) crashed(owner, key string, claimed time.Time) {
	w.t.Helper()
	id := sha256.Sum256([]byte(owner + "\x00" + key))
	err := w.store.Update(w.t.Context(), func(tx management.Tx) error {
		row, err := tx.(idempotency.Tx).LockIdempotency(id[:])
		if err != nil {
			return err
		}
		row.Claim, row.ClaimedAt, row.Status, row.Body, row.ETag = "another process", claimed, 0, "", ""
		return tx.(idempotency.Tx).UpdateIdempotency(row)
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// uncommitted changes the stored record of a request as if the process had been killed before it
// changed anything.
func (w *fixture) uncommitted(owner, key string) {
	w.t.Helper()
	id := sha256.Sum256([]byte(owner + "\x00" + key))
	if err := w.store.Update(w.t.Context(), func(tx management.Tx) error {
		row, err := tx.(idempotency.Tx).LockIdempotency(id[:])
		if err != nil {
			return err
		}
		row.Effect = idempotency.Effect{}
		return tx.(idempotency.Tx).UpdateIdempotency(row)
	}); err != nil {
		w.t.Fatal(err)
	}
}

// A request that another process may still be carrying out is answered 409. It is carried out
// again only after the claim of the other process has expired.
func TestIdempotentRequestStillRunning(t *testing.T) {
	w := newFixture(t)
	w.send("POST", "/v1/tenants", newTenant).want(201)
	send := func() answer { return w.send("POST", "/v1/tenants/acme/credits", `{"add":1}`, idempotencyKey, "k") }
	balance := func() any { return w.send("GET", "/v1/tenants/acme", "").want(200)["credits"] }
	send().want(200)
	w.crashed("admin ada", "k", time.Now())
	w.uncommitted("admin ada", "k")
	a := send()
	a.wantProblem(409, "request_running", "")
	if a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	w.crashed("admin ada", "k", time.Now().Add(-2*time.Minute))
	send().want(200)
	if b := balance(); b != 7.0 {
		t.Errorf("the balance is %v, want 7: the request was carried out twice, since the first time was made to look undone", b)
	}
	// A rejection is not stored: the same request succeeds once the reason for the rejection is
	// gone.
	spend := func() answer { return w.send("POST", "/v1/tenants/acme/credits", `{"spend":10}`, idempotencyKey, "s") }
	spend().wantProblem(402, "credits_exhausted", "")
	w.send("POST", "/v1/tenants/acme/credits", `{"add":10}`).want(200)
	spend().want(200)
	if b := balance(); b != 7.0 {
		t.Errorf("the balance is %v, want 7", b)
	}
	// The same idempotency key of another caller names another request.
	w.access.Actor.Name = "bob"
	send().want(200)
	w.as(w.send("POST", "/v1/tokens", `{"name":"n","scopes":["*"]}`).want(201)["token"].(string))
	send().want(200)
	w.access.Actor.Name = "a person it acts for"
	if a := send(); a.header.Get("Idempotent-Replayed") != "true" {
		t.Error("a token's idempotency keys depend on the person it acts for")
	}
	if b := balance(); b != 9.0 {
		t.Errorf("the balance is %v, want 9", b)
	}
}

// Of many concurrent requests with one idempotency key, exactly one is carried out.
func TestConcurrentIdempotentRequests(t *testing.T) {
	w := newFixture(t)
	w.send("POST", "/v1/tenants", `{"slug":"acme","plan":"pro"}`).want(201)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			for range 100 {
				a := w.send("POST", "/v1/tenants/acme/credits", `{"add":1}`, idempotencyKey, "k")
				if a.status == http.StatusOK {
					return
				}
				if a.status != http.StatusConflict {
					t.Errorf("answered %d %s", a.status, a.body)
					return
				}
				time.Sleep(5 * time.Millisecond)
			}
			t.Error("no request was answered 200")
		})
	}
	all.Wait()
	if b := w.send("GET", "/v1/tenants/acme", "").want(200)["credits"]; b != 1.0 {
		t.Errorf("the balance is %v, want 1", b)
	}
}
