package api_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/keygate-dev/keygate/plugin/api"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/auth"
)

// as makes the holder of a token the caller of all following requests.
func (w *fixture) as(full string) {
	w.t.Helper()
	g, err := auth.New(w.manager).CheckToken(w.t.Context(), full, "192.0.2.9")
	if err != nil {
		w.t.Fatal(err)
	}
	w.access = api.Access{Actor: g.Actor("192.0.2.9"), Keyspace: g.Keyspace, Allows: g.Allows}
}

func TestTokens(t *testing.T) {
	w := newFixture(t)
	operator := w.access
	w.send("POST", "/v1/tenants", newTenant).want(201)
	made := w.send("POST", "/v1/tokens", `{"name":"ci","scopes":["keys:read","tokens:read","tokens:write"],"tenant":"Acme","expires_at":"2099-01-01T00:00:00Z"}`).want(http.StatusCreated)
	full, id := made["token"].(string), made["id"].(string)
	if !strings.HasPrefix(full, "kgm_") || made["tenant"] != "acme" || made["created_by"] != "ada" || made["code"] != nil {
		t.Errorf("made %v", made)
	}
	if list := w.send("GET", "/v1/tokens?tenant=acme&limit=5", ""); len(list.want(200)["data"].([]any)) != 1 || strings.Contains(list.body, full) {
		t.Errorf("listed %s", list.body)
	}
	for body, pointer := range map[string]string{
		`{"scopes":["*"]}`: "/name", `{"name":"n"}`: "/scopes", `{"name":"n","scopes":[]}`: "/scopes", `{"name":"n","scopes":["x"]}`: "/scopes/0",
		`{"name":"n","scopes":["*"],"tenant":"nobody"}`: "/tenant", `{"name":"n","scopes":["*"],"expires_at":"2020-01-01T00:00:00Z"}`: "/expires_at",
		`{"name":"n","scopes":["*"],"tenant":5}`: "/tenant",
	} {
		w.send("POST", "/v1/tokens", body).wantProblem(422, "invalid_field", pointer)
	}
	w.as(full)
	w.send("POST", "/v1/tokens", `{"name":"n","scopes":["keys:read","keys:write"]}`).wantProblem(422, management.CodeScopeNotAllowed, "/scopes/1")
	w.send("GET", "/v1/tenants", "").wantProblem(403, management.CodeInsufficientScope, "")
	w.send("GET", "/v1/tokens?keyspace=convoy", "").wantProblem(404, "not_found", "")
	w.send("POST", "/v1/tokens", `{"name":"n","scopes":["keys:read"]}`).want(201)
	w.access = operator
	w.send("DELETE", "/v1/tokens/"+id, "").want(http.StatusNoContent)
	for _, r := range w.send("GET", "/v1/tokens", "").want(200)["data"].([]any) {
		if r.(map[string]any)["status"] != "revoked" {
			t.Errorf("after its issuing token was revoked: %v", r)
		}
	}
	w.send("DELETE", "/v1/tokens/nothing", "").wantProblem(404, "not_found", "")
}

// For a token of one tenant, the key of another tenant is an unknown key.
func TestVerifyConfined(t *testing.T) {
	w := newFixture(t)
	operator := w.access
	keys := map[string]string{}
	for _, slug := range []string{"acme", "b"} {
		w.send("POST", "/v1/tenants", `{"slug":"`+slug+`","plan":"free"}`).want(201)
		keys[slug] = w.send("POST", "/v1/tenants/"+slug+"/keys", keyBody).want(201)["key"].(string)
	}
	w.as(w.send("POST", "/v1/tokens", `{"name":"n","scopes":["*"],"tenant":"acme"}`).want(201)["token"].(string))
	for _, path := range []string{"/v1/verify", "/v1/explain"} {
		if r := w.send("POST", path, `{"key":"`+keys["acme"]+`"}`).want(200); r["reason"] != "allowed" {
			t.Errorf("%s of its own key: %v", path, r)
		}
		for range 12 { // The plan's burst is 10: if a request spent from it, a later one would be rejected.
			a := w.send("POST", path, `{"key":"`+keys["b"]+`"}`)
			if r := a.want(200); r["reason"] != "invalid_key" || r["tenant"] != "" || r["key_id"] != "" || strings.Contains(a.body, `"b"`) {
				t.Fatalf("%s of the other's key: %s", path, a.body)
			}
		}
	}
	w.send("GET", "/v1/status", "").wantProblem(403, management.CodeInsufficientScope, "")
	w.access = operator
	if r := w.send("POST", "/v1/verify", `{"key":"`+keys["b"]+`"}`).want(200); r["reason"] != "allowed" {
		t.Errorf("the other tenant's key afterwards: %v", r)
	}
	w.access.Keyspace = "default"
	if r := w.send("GET", "/v1/status", "").want(200)["keyspaces"].([]any); len(r) != 1 || r[0] != "default" {
		t.Errorf("a caller with one keyspace sees %v", r)
	}
}
