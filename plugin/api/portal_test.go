package api_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/plugin/api"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/auth"
)

func TestPortalLinks(t *testing.T) {
	w := newFixture(t)
	w.send("POST", "/v1/tenants", `{"slug": "acme"}`).want(http.StatusCreated)
	const path = "/v1/tenants/acme/portal"
	w.send("POST", path, `{"actor": "Ada"}`).wantProblem(http.StatusUnprocessableEntity, "console_unavailable", "")
	w.handler = api.New(w.manager, api.Options{
		Authenticate: func(*http.Request) (api.Access, error) { return w.access, nil },
		Console:      func(keyspace string) string { return "https://keys.example.com/" + keyspace },
	})
	for body, want := range map[string]time.Duration{
		`{"actor": "Ada"}`: auth.PortalLife,
		`{"actor": "Ada Lovelace", "role": "editor", "return_url": "https://app.example.com/", "expires_in": "10m"}`: 10 * time.Minute,
		`{"actor": "Ada", "role": null, "return_url": null, "expires_in": null}`:                                     auth.PortalLife,
		`{"actor": "Ada", "role": "viewer", "expires_in": 90}`:                                                       90 * time.Second,
	} {
		before := time.Now()
		m := w.send("POST", path, body).want(http.StatusCreated)
		secret, ok := strings.CutPrefix(m["url"].(string), "https://keys.example.com/default/portal#")
		if !ok || !strings.HasPrefix(secret, "kgp_") {
			t.Fatalf("the url is %v", m["url"])
		}
		at, err := time.Parse(time.RFC3339, m["expires_at"].(string))
		if err != nil || at.Before(before.Add(want-time.Second)) || at.After(time.Now().Add(want)) {
			t.Errorf("%s ends %v, %v", body, m["expires_at"], err)
		}
		s, err := auth.New(w.manager).UsePortalLink(t.Context(), "default", secret, "192.0.2.1")
		if err != nil || s.Tenant != "acme" || s.Allows("keys:write") != strings.Contains(body, "editor") || s.Allows("tenants:write") || s.Allows("*") {
			t.Errorf("%s gives %+v, %v", body, s, err)
		}
	}
	for body, pointer := range map[string]string{
		`{}`: "/actor", `{"actor": ""}`: "/actor", `{"actor": "a", "role": "owner"}`: "/role", `{"actor": "a", "return_url": "javascript:alert(1)"}`: "/return_url",
		`{"actor": "a", "return_url": "//x"}`: "/return_url", `{"actor": "a", "expires_in": "2h"}`: "/expires_in", `{"actor": "a", "expires_in": 1}`: "/expires_in",
		`{"actor": "a", "expires_in": "soon"}`: "/expires_in", `{"actor": "a", "expires_in": true}`: "/expires_in",
	} {
		w.send("POST", path, body).wantProblem(http.StatusUnprocessableEntity, management.CodeInvalidField, pointer)
	}
	w.send("POST", path, `{"actor": "a", "tenant": "b"}`).wantProblem(http.StatusUnprocessableEntity, management.CodeUnknownField, "/tenant")
	w.send("POST", "/v1/tenants/nobody/portal", `{"actor": "a"}`).wantProblem(http.StatusNotFound, management.CodeNotFound, "")

	// A repeated request makes no second link, and its response does not show the first link.
	first := w.send("POST", path, `{"actor": "Once"}`, "Idempotency-Key", "k1").want(http.StatusCreated)
	again := w.send("POST", path, `{"actor": "Once"}`, "Idempotency-Key", "k1").want(http.StatusCreated)
	if again["url"] != nil || again["code"] == nil || first["url"] == nil {
		t.Errorf("the replay is %v", again)
	}

	w.access.Allows = func(scope string) bool { return scope == "tenants:write" }
	w.send("POST", path, `{"actor": "a"}`).wantProblem(http.StatusForbidden, management.CodeInsufficientScope, "")
	w.access.Allows = func(scope string) bool { return scope == "portal" }
	w.access.Actor.Tenant = "b"
	w.send("POST", path, `{"actor": "a"}`).wantProblem(http.StatusNotFound, management.CodeNotFound, "")
}
