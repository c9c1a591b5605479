package api_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/auth"
)

// allowed maps each scope to the routes that it allows. "" stands for no token; the scope "*"
// allows every route.
var allowed = map[string][]string{
	"":  {"GET /v1/openapi.json", "POST /v1/leaks", "POST /v1/leaks/github"}, // The routes of the first line are open to requests without a token.
	"*": {"DELETE /v1/nodes/{node}"},
	"tenants:read": {
		"GET /v1/tenants", "GET /v1/tenants/{slug}", "GET /v1/tenants/{slug}/credits", "GET /v1/tenants/{slug}/limits", "GET /v1/plans",
	},
	"tenants:write": {
		"POST /v1/tenants", "PUT /v1/tenants/{slug}", "PATCH /v1/tenants/{slug}", "DELETE /v1/tenants/{slug}", "POST /v1/tenants/{slug}/limits/reset",
	},
	"keys:read": {"GET /v1/tenants/{slug}/keys", "GET /v1/keys", "GET /v1/keys/{id}", "GET /v1/keys/{id}/limits", "GET /v1/scanner-rules"},
	"keys:write": {
		"POST /v1/tenants/{slug}/keys", "PATCH /v1/keys/{id}", "DELETE /v1/keys/{id}", "POST /v1/keys/{id}/rotate", "POST /v1/keys/{id}/revoke",
		"POST /v1/keys/{id}/disable", "POST /v1/keys/{id}/enable", "POST /v1/keys/{id}/limits/reset", "POST /v1/import",
	},
	"credits:write":  {"POST /v1/tenants/{slug}/credits"},
	"usage:read":     {"GET /v1/keys/{id}/usage", "GET /v1/keys/{id}/requests", "GET /v1/tenants/{slug}/usage", "GET /v1/usage", "GET /v1/status"},
	"audit:read":     {"GET /v1/audit", "GET /v1/audit/head", "GET /v1/audit/verify", "POST /v1/audit/verify"},
	"webhooks:read":  {"GET /v1/webhooks", "GET /v1/webhooks/{id}", "GET /v1/webhooks/{id}/deliveries"},
	"webhooks:write": {"POST /v1/webhooks", "PATCH /v1/webhooks/{id}", "DELETE /v1/webhooks/{id}", "POST /v1/webhooks/{id}/rotate-secret", "POST /v1/webhooks/{id}/deliveries/{delivery}/replay"},
	"tokens:read":    {"GET /v1/tokens"},
	"tokens:write":   {"POST /v1/tokens", "DELETE /v1/tokens/{id}"},
	"events:write":   {"POST /v1/tenants/{slug}/events"},
	"verify":         {"POST /v1/verify", "POST /v1/explain"},
	"act":            nil,
	"portal":         {"POST /v1/tenants/{slug}/portal"},
}

// Each scope allows its own routes and no others.
func TestScopesOfRoutes(t *testing.T) {
	w := newFixture(t)
	operator := w.access
	var doc struct {
		Paths map[string]map[string]json.RawMessage `json:"paths"`
	}
	if err := json.Unmarshal([]byte(w.send("GET", "/v1/openapi.json", "").body), &doc); err != nil {
		t.Fatal(err)
	}
	var routes []string
	for path, methods := range doc.Paths {
		for method := range methods {
			if method = strings.ToUpper(method); method != "PARAMETERS" {
				routes = append(routes, method+" "+path)
			}
		}
	}
	listed := 0
	for _, list := range allowed {
		listed += len(list)
	}
	if len(routes) < 50 || len(routes) != listed {
		t.Errorf("%d routes are described, %d are listed here", len(routes), listed)
	}
	for _, scope := range auth.TokenScopes() {
		if _, ok := allowed[scope]; !ok {
			t.Errorf("the scope %s is not listed here", scope)
		}
		w.access = operator
		w.as(w.send("POST", "/v1/tokens", `{"name":"n","scopes":["`+scope+`"]}`).want(201)["token"].(string))
		for _, route := range routes {
			method, path, _ := strings.Cut(route, " ")
			path = strings.NewReplacer("{slug}", "none", "{id}", "none", "{node}", "none", "{delivery}", "none").Replace(path)
			body := ""
			if method != http.MethodGet && method != http.MethodDelete {
				body = "{}"
			}
			a := w.send(method, path, body)
			may := scope == management.AllScopes || slices.Contains(allowed[scope], route) || slices.Contains(allowed[""], route)
			if denied := a.status == http.StatusForbidden; denied == may {
				t.Errorf("%s with the scope %s: %d %s", route, scope, a.status, a.body)
			}
		}
	}
}

// A field that needs a further scope is rejected with the name of that field.
func TestScopesOfFields(t *testing.T) {
	w := newFixture(t)
	operator := w.access
	w.send("POST", "/v1/tenants", `{"slug":"acme","plan":"free"}`).want(201)
	token := func(scopes ...string) (full, id string) {
		w.access = operator
		text, _ := json.Marshal(scopes)
		r := w.send("POST", "/v1/tokens", `{"name":"n","scopes":`+string(text)+`}`).want(201)
		return r["token"].(string), r["id"].(string)
	}
	as := func(scopes ...string) {
		full, _ := token(scopes...)
		w.as(full)
	}
	const insufficient = management.CodeInsufficientScope

	as("tenants:write")
	w.send("POST", "/v1/tenants", `{"slug":"b","plan":"free","credits":5}`).wantProblem(403, insufficient, "/credits")
	w.send("POST", "/v1/tenants", `{"slug":"b","plan":"free"}`).want(201)
	w.send("PUT", "/v1/tenants/c", `{"plan":"free","credits":5}`).wantProblem(403, insufficient, "/credits")
	w.send("PATCH", "/v1/tenants/acme", `{"credits":5}`).wantProblem(403, insufficient, "/credits")
	w.send("PATCH", "/v1/tenants/acme", `{"credits":0,"name":"Acme"}`).want(200) // The balance is 0 already. So a request that sets the balance to 0 changes no credits and needs no further scope.
	as("tenants:write", "credits:write")
	w.send("PATCH", "/v1/tenants/acme", `{"credits":5}`).want(200)
	as("keys:write")
	w.send("POST", "/v1/import", `{"keys":[{"tenant":"d","name":"x","hash":"`+strings.Repeat("0", 64)+`","algorithm":"sha256"}],"create_tenants":true}`).wantProblem(403, insufficient, "")
	// A token can revoke itself, and only such tokens as it could have issued.
	_, wide := token("*")
	_, other := token("keys:read", "verify")
	_, same := token("tokens:write", "keys:read")
	full, own := token("tokens:write", "keys:read")
	w.as(full)
	w.send("DELETE", "/v1/tokens/"+wide, "").wantProblem(403, insufficient, "")
	w.send("DELETE", "/v1/tokens/"+other, "").wantProblem(403, insufficient, "")
	w.send("POST", "/v1/tokens", `{"name":"n","scopes":["portal"]}`).wantProblem(422, management.CodeScopeNotAllowed, "/scopes/0")
	w.send("DELETE", "/v1/tokens/"+same, "").want(204)
	made := w.send("POST", "/v1/tokens", `{"name":"n","scopes":["keys:read"]}`).want(201)["id"].(string)
	w.send("DELETE", "/v1/tokens/"+made, "").want(204)
	w.send("DELETE", "/v1/tokens/"+own, "").want(204)
	w.access = operator
	for _, r := range w.send("GET", "/v1/tokens?limit=100", "").want(200)["data"].([]any) {
		if r := r.(map[string]any); (r["id"] == wide || r["id"] == other) && r["status"] != "active" {
			t.Errorf("%v was revoked", r)
		}
	}
}
