package e2e

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

// TestKnouds checks what the web page of the product Knouds promises in "API keys".
func TestKnouds(t *testing.T) {
	t.Parallel()
	s := startProduct(t, knouds)
	const run, list, create = "POST /api/workflows/my-flow/run", "GET /api/workflows/my-flow", "POST /api/workflows"
	call := func(t *testing.T, k key, request string) *answer {
		t.Helper()
		method, path, _ := strings.Cut(request, " ")
		return s.call(t, method, path, k.full)
	}
	// can checks which of the three requests a key with the scope may send.
	can := func(t *testing.T, k key, scopes string) {
		t.Helper()
		allowed := map[string]int{"free": 1, "deployment": 2, "admin": 3}[scopes]
		for i, request := range []string{run, list, create} {
			if i >= allowed {
				call(t, k, request).rejected(http.StatusForbidden).problem("insufficient_scope")
				continue
			}
			spelt := map[string]string{"free": "free", "deployment": "deployment free", "admin": "admin deployment free"}[scopes]
			if got := call(t, k, request).passed().reached.header.Get("X-Key-Scopes"); got != spelt {
				t.Errorf("X-Key-Scopes %q, want %q", got, spelt)
			}
		}
	}

	t.Run("knouds_live_ in x-api-key", func(t *testing.T) {
		s.tenant(t, "shape", nil)
		k := s.key(t, "shape", nil)
		s.shaped(t, k.full)
		s.send(t, "GET", "/api/workflows", "", "x-api-key", k.full).passed()
		s.send(t, "GET", "/api/workflows", "").rejected(http.StatusUnauthorized).problem("missing_key")
		s.send(t, "GET", "/api/workflows", "", "Authorization", "Bearer "+k.full).rejected(http.StatusUnauthorized).problem("missing_key")
		s.send(t, "GET", "/api/workflows", "", "x-api-key", "knouds_test_"+k.full[12:]).rejected(http.StatusUnauthorized).problem("malformed_key")
		s.send(t, "GET", "/api/workflows", "", "x-api-key", s.unknown()).rejected(http.StatusUnauthorized).problem("invalid_key")
		// The gateway does not touch a user's own token next to the key.
		a := s.send(t, "GET", "/api/workflows", "", "x-api-key", k.full, "Authorization", "Bearer eyJhbGciOi").passed()
		if a.reached.header.Get("Authorization") != "Bearer eyJhbGciOi" || a.reached.header.Get("X-Api-Key") != "" {
			t.Errorf("the upstream saw %v", a.reached.header)
		}
	})

	t.Run("scopes are cumulative, the tier's own is the default, a lower one may be chosen", func(t *testing.T) {
		for tier, own := range map[string]string{"free": "free", "pro": "deployment", "business": "admin", "enterprise": "admin"} {
			s.tenant(t, tier, record{"plan": tier})
			k := s.key(t, tier, nil)
			if r := s.read(t, "/v1/keys/"+k.id); !slices.Equal(r.list("scopes"), []any{own}) {
				t.Errorf("%s: by default a key has %v", tier, r["scopes"])
			}
			can(t, k, own)
			order := []string{"free", "deployment", "admin"}
			for i, scope := range order {
				body := record{"name": "chosen", "scopes": []string{scope}}
				if i > slices.Index(order, own) {
					p := s.manage(t, "POST", "/v1/tenants/"+tier+"/keys", body).want(http.StatusUnprocessableEntity).problem("scope_not_allowed")
					if errs := p.records("errors"); len(errs) != 1 || errs[0]["pointer"] != "/scopes/0" {
						t.Errorf("%s: the error names %v", tier, p["errors"])
					}
					s.keygate(t, "key", "create", "--tenant", tier, "--name", "x", "--scope", scope).exits(1)
					s.manage(t, "PATCH", "/v1/keys/"+k.id, record{"scopes": []string{scope}}).want(http.StatusUnprocessableEntity).problem("scope_not_allowed")
					continue
				}
				can(t, s.key(t, tier, body), scope)
			}
		}
		s.manage(t, "POST", "/v1/tenants/free/keys", record{"name": "x", "scopes": []string{"root"}}).want(http.StatusUnprocessableEntity).problem("invalid_field")
	})

	t.Run("a downgrade is effective at once", func(t *testing.T) {
		s.tenant(t, "down", record{"plan": "business"})
		k, chosen := s.key(t, "down", nil), s.key(t, "down", record{"scopes": []string{"deployment"}})
		for plan, scope := range map[string]string{"pro": "deployment", "free": "free", "business": "admin", "enterprise": "admin"} {
			s.patch(t, "/v1/tenants/down", record{"plan": plan})
			can(t, k, scope)
			if scope == "admin" {
				scope = "deployment"
			}
			can(t, chosen, scope)
		}
		s.patch(t, "/v1/tenants/down", record{"plan": "free"})
		r := s.read(t, "/v1/keys/"+k.id)
		if !slices.Equal(r.list("scopes"), []any{"admin"}) || !slices.Equal(r.list("effective_scopes"), []any{"free"}) {
			t.Errorf("the record is %v, %v", r["scopes"], r["effective_scopes"])
		}
		if r := s.read(t, "/v1/tenants/down"); !slices.Equal(r.list("allowed_scopes"), []any{"free"}) {
			t.Errorf("the tenant is allowed %v", r["allowed_scopes"])
		}
	})

	t.Run("the scope free allows the run of a workflow and nothing else", func(t *testing.T) {
		s.tenant(t, "paths", record{"plan": "free"})
		k := s.key(t, "paths", nil)
		call(t, k, run).passed()
		for _, request := range []string{
			"GET /api/workflows/my-flow/run", "PUT /api/workflows/my-flow/run", "POST /api/workflows/my-flow/run/x", "POST /api/workflows/run",
			"POST /api/models", "DELETE /api/workflows/my-flow", "POST /api/workflows/x/../../models/run", "POST /api/Models/x/run", "GET /api", "POST /api/workflows/a/run/../../b",
		} {
			call(t, k, request).rejected(http.StatusForbidden).problem("insufficient_scope")
		}
		call(t, k, "POST /api/workflows/x%2f..%2f../models/run").rejected(http.StatusBadRequest).problem("ambiguous_path")
	})

	t.Run("list: name, creation date, scope", func(t *testing.T) {
		s.tenant(t, "list", nil)
		k := s.key(t, "list", record{"name": "GitHub Actions deploy", "scopes": []string{"deployment"}})
		r := s.read(t, "/v1/tenants/list/keys").records("data")
		if len(r) != 1 || r[0]["name"] != "GitHub Actions deploy" || r[0].text("created_at") == "" || !slices.Equal(r[0].list("scopes"), []any{"deployment"}) || r[0]["id"] != k.id {
			t.Errorf("the list is %v", r)
		}
	})

	t.Run("delete: 401 at once", func(t *testing.T) {
		s.tenant(t, "delete", nil)
		for i := range 10 {
			k := s.key(t, "delete", nil)
			call(t, k, create).passed()
			if i%2 == 0 {
				s.manage(t, "DELETE", "/v1/keys/"+k.id, nil).want(http.StatusNoContent)
			} else {
				s.keygate(t, "key", "delete", k.id).exits(0)
			}
			call(t, k, create).rejected(http.StatusUnauthorized).problem("invalid_key")
			s.manage(t, "GET", "/v1/keys/"+k.id, nil).want(http.StatusNotFound).problem("not_found")
		}
	})

	t.Run("shown once", func(t *testing.T) {
		s.tenant(t, "once", nil)
		k := s.key(t, "once", nil)
		call(t, k, create).passed()
		s.shownOnce(t, k)
	})
}
