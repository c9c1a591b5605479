package api_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/keygate-dev/keygate/plugin/api"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/webhooks"
	"github.com/keygate-dev/keygate/plugin/webhook"
)

// withWebhooks replaces the fixture's handler by one whose configuration has a secret for
// webhooks.
func (w *fixture) withWebhooks() {
	w.t.Helper()
	vault, err := webhook.NewVault("a secret of enough bytes")
	if err != nil {
		w.t.Fatal(err)
	}
	m := management.New(management.Config{
		Store: w.store, Engine: w.gw, View: func() *gateway.View { return w.view },
	})
	w.handler = api.New(m, api.Options{
		Webhooks:     webhooks.New(m, func(string) webhooks.Settings { return webhooks.Settings{Sealer: vault} }),
		Authenticate: func(*http.Request) (api.Access, error) { return w.access, nil },
	})
}

func TestWebhooks(t *testing.T) {
	w := newFixture(t)
	w.send("POST", "/v1/tenants", newTenant).want(201)
	w.send("POST", "/v1/webhooks", `{"url":"https://example.com/"}`).wantProblem(422, webhooks.CodeOff, "")
	w.withWebhooks()
	made := w.send("POST", "/v1/webhooks", `{"url":"https://example.com/hook","events":["key.*","job.finished"],"tenant":"ACME"}`)
	m := made.want(http.StatusCreated)
	id, secret := m["id"].(string), m["secret"].(string)
	if !strings.HasPrefix(id, "whk_") || !strings.HasPrefix(secret, "whsec_") || m["tenant"] != "acme" || m["active"] != true {
		t.Errorf("made %s", made.body)
	}
	if got := w.send("GET", "/v1/webhooks/"+id, ""); got.want(200)["secret"] != nil || got.header.Get("ETag") != `"1"` {
		t.Errorf("shows %s", got.body)
	}
	if got := w.send("GET", "/v1/webhooks?tenant=acme&limit=1", ""); len(got.want(200)["data"].([]any)) != 1 || strings.Contains(got.body, secret) {
		t.Errorf("lists %s", got.body)
	}
	w.send("PATCH", "/v1/webhooks/"+id, `{"events":["*"]}`, "If-Match", `"9"`).wantProblem(412, "precondition_failed", "")
	w.send("PATCH", "/v1/webhooks/"+id, `{"events":["*"]}`, "If-Match", `"1"`).want(200)
	w.send("PATCH", "/v1/webhooks/"+id, `{"secret":"whsec_x"}`).wantProblem(422, "unknown_field", "/secret")
	rotated := w.send("POST", "/v1/webhooks/"+id+"/rotate-secret", "").want(200)
	if s := rotated["secret"].(string); s == secret || rotated["previous_secret_until"] == nil {
		t.Errorf("rotated to %v", rotated)
	}
	w.send("POST", "/v1/webhooks/"+id+"/rotate-secret", `{"x":1}`).wantProblem(422, "unknown_field", "/x")

	// A webhook that is created twice with one idempotency key exists once, and its secret is
	// shown once.
	for i, want := range []bool{true, false} {
		again := w.send("POST", "/v1/webhooks", `{"url":"https://example.org/"}`, api.IdempotencyHeader, "k1")
		if m := again.want(http.StatusCreated); (m["secret"] != nil) != want || (m["code"] == "secret_already_shown") == want {
			t.Errorf("sent time %d: %s", i, again.body)
		}
	}
	if list := w.send("GET", "/v1/webhooks", "").want(200)["data"].([]any); len(list) != 2 {
		t.Errorf("%d webhooks, want 2", len(list))
	}
	first := w.send("POST", "/v1/tenants/acme/events", `{"type":"a.b"}`, api.IdempotencyHeader, "k2").want(http.StatusAccepted)
	if again := w.send("POST", "/v1/tenants/acme/events", `{"type":"a.b"}`, api.IdempotencyHeader, "k2").want(http.StatusAccepted); again["id"] != first["id"] {
		t.Errorf("published twice: %v and %v", first, again)
	}
	w.send("DELETE", "/v1/webhooks/"+w.send("GET", "/v1/webhooks?limit=1", "").want(200)["data"].([]any)[0].(map[string]any)["id"].(string), "").want(204)

	event := w.send("POST", "/v1/tenants/acme/events", `{"type":"job.finished","data":{"n":1}}`).want(http.StatusAccepted)
	if event["deliveries"] != 1. || event["type"] != "job.finished" {
		t.Errorf("accepted as %v", event)
	}
	list := w.send("GET", "/v1/webhooks/"+id+"/deliveries?status=pending", "").want(200)["data"].([]any)
	if len(list) != 2 || list[0].(map[string]any)["event_id"] != event["id"] {
		t.Fatalf("deliveries %v", list)
	}
	delivery := list[0].(map[string]any)["id"].(string)
	w.send("POST", "/v1/webhooks/"+id+"/deliveries/"+delivery+"/replay", "").want(http.StatusAccepted)
	w.send("POST", "/v1/webhooks/"+id+"/deliveries/dlv_nothing/replay", "").wantProblem(404, "not_found", "")
	w.send("GET", "/v1/webhooks/"+id+"/deliveries?status=lost", "").wantProblem(422, "invalid_field", "status")

	for body, pointer := range map[string]string{
		`{}`: "/url", `{"url":5}`: "/url", `{"url":"http://127.0.0.1/"}`: "/url", `{"url":"https://example.com/","events":[]}`: "/events",
		`{"url":"https://example.com/","events":["key.made"]}`: "/events/0", `{"url":"https://example.com/","tenant":"nobody"}`: "/tenant",
		`{"url":"https://example.com/","active":null}`: "/active",
	} {
		w.send("POST", "/v1/webhooks", body).wantProblem(422, "invalid_field", pointer)
	}
	for body, pointer := range map[string]string{
		`{}`: "/type", `{"type":"key.created"}`: "/type", `{"type":"job"}`: "/type", `{"type":"job.finished","data":[]}`: "/data",
	} {
		w.send("POST", "/v1/tenants/acme/events", body).wantProblem(422, "invalid_field", pointer)
	}
	w.send("POST", "/v1/tenants/nobody/events", `{"type":"job.finished"}`).wantProblem(404, "not_found", "")
	w.send("GET", "/v1/webhooks/"+id+"?keyspace=convoy", "").wantProblem(404, "not_found", "")

	w.access.Allows = func(scope string) bool { return scope == "webhooks:read" }
	w.send("GET", "/v1/webhooks", "").want(200)
	w.send("DELETE", "/v1/webhooks/"+id, "").wantProblem(403, "insufficient_scope", "")
	w.send("POST", "/v1/tenants/acme/events", `{"type":"job.finished"}`).wantProblem(403, "insufficient_scope", "")
	w.access.Allows = nil
	w.send("DELETE", "/v1/webhooks/"+id, "").want(http.StatusNoContent)
	w.send("GET", "/v1/webhooks/"+id, "").wantProblem(404, "not_found", "")
}
