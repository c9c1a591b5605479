package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// example is the product that Caddyfile.example configures.
var example = product{name: "default", prefix: "kg_live_", random: 32, checksum: 6, plan: "pro", path: "/v1/hello"}

// TestManagement uses the management API on Caddy's admin endpoint.
func TestManagement(t *testing.T) {
	t.Parallel()
	s := &site{gateway: start(t, shipped(t, "Caddyfile.example"), newUpstream(t)), product: example}

	t.Run("tenants", func(t *testing.T) {
		made := s.manage(t, "POST", "/v1/tenants", record{
			"slug": "Acme.1_x-y", "name": "Acme “Größe”", "plan": "pro", "rate": "5/s burst 9", "quota": "1000/day", "concurrency": 3, "metadata": record{"crm": []int{7}},
		}).want(http.StatusCreated)
		r := made.json()
		for name, want := range map[string]any{
			"slug": "Acme.1_x-y", "name": "Acme “Größe”", "plan": "pro", "active": true, "credits": 0.0, "rate": "5/s burst 9", "quota": "1000/day",
			"concurrency": 3.0, "keys_active": 0.0, "max_keys": 25.0,
		} {
			if r[name] != want {
				t.Errorf("%s is %v, want %v", name, r[name], want)
			}
		}
		if !slices.Equal(r.list("allowed_scopes"), []any{"admin", "write", "read"}) {
			t.Errorf("allowed_scopes %v", r["allowed_scopes"])
		}
		s.manage(t, "GET", "/v1/tenants/Acme.1_x-y", nil).want(http.StatusOK).says(made.body)
		s.manage(t, "GET", "/v1/tenants/acme.1_X-Y", nil).want(http.StatusOK).says(made.body)

		// PATCH changes the stated fields, and null clears an override.
		r = s.patch(t, "/v1/tenants/Acme.1_x-y", record{"rate": nil, "active": false})
		if r["rate"] != nil || r["quota"] != "1000/day" || r["active"] != false || r["name"] != "Acme “Größe”" {
			t.Errorf("patched: %v", r)
		}
		// PUT creates or changes a tenant.
		s.manage(t, "PUT", "/v1/tenants/put", record{"name": "Put"}).want(http.StatusCreated)
		if r := s.manage(t, "PUT", "/v1/tenants/put", record{"name": "Put again"}).want(http.StatusOK).json(); r["name"] != "Put again" || r["plan"] != "free" {
			t.Errorf("put: %v", r)
		}
		s.manage(t, "POST", "/v1/tenants", record{"slug": "PUT"}).want(http.StatusConflict).problem("slug_taken")

		// A tenant with keys is deleted only with force=true. Its slug can't be used again.
		k := s.key(t, "put", nil)
		s.call(t, "GET", s.path, k.full).passed()
		s.manage(t, "DELETE", "/v1/tenants/put", nil).want(http.StatusConflict).problem("tenant_has_keys")
		s.manage(t, "DELETE", "/v1/tenants/put?force=true", nil).want(http.StatusNoContent)
		s.call(t, "GET", s.path, k.full).rejected(http.StatusUnauthorized).problem("invalid_key")
		s.manage(t, "GET", "/v1/tenants/put", nil).want(http.StatusNotFound).problem("not_found")
		s.manage(t, "GET", "/v1/keys/"+k.id, nil).want(http.StatusNotFound).problem("not_found")
		s.manage(t, "POST", "/v1/tenants", record{"slug": "put"}).want(http.StatusConflict).problem("slug_taken")
		s.manage(t, "PUT", "/v1/tenants/put", record{}).want(http.StatusConflict).problem("slug_taken")
	})

	t.Run("keys", func(t *testing.T) {
		s.tenant(t, "keys", nil)
		k := s.key(t, "keys", record{
			"name": "ci", "description": "d", "scopes": []string{"write"}, "environment": "test", "expires_at": "2099-01-31T12:00:00+02:00",
			"allowed_ips": []string{"127.0.0.1", "10.0.0.0/8", "::ffff:192.0.2.7", "2001:db8::/32"}, "rate": "100/m", "quota": "7/month", "concurrency": 2,
			"credits_limit": 9, "metadata": record{"a": true},
		})
		r := s.read(t, "/v1/keys/"+k.id)
		for name, want := range map[string]any{
			"id": k.id, "tenant": "keys", "name": "ci", "description": "d", "environment": "test", "status": "active", "is_active": true,
			"expires_at": "2099-01-31T10:00:00Z", "key_prefix": k.full[:12], "last_four": k.full[len(k.full)-4:],
			"rate": "100/m", "quota": "7/month", "concurrency": 2.0, "credits_limit": 9.0, "created_by": "admin", "revoked_at": nil, "key": nil, "curl": nil,
		} {
			if r[name] != want {
				t.Errorf("%s is %v, want %v", name, r[name], want)
			}
		}
		if !slices.Equal(r.list("effective_scopes"), []any{"write", "read"}) || !slices.Equal(r.list("allowed_ips"), []any{"127.0.0.1", "10.0.0.0/8", "192.0.2.7", "2001:db8::/32"}) {
			t.Errorf("effective_scopes %v, allowed_ips %v", r["effective_scopes"], r["allowed_ips"])
		}
		a := s.call(t, "GET", s.path, k.full).passed()
		if policy := a.header.Get("RateLimit-Policy"); !strings.Contains(policy, `"7/month"`) || !strings.Contains(policy, `"100000/month;tenant"`) && !strings.Contains(policy, `"100000/month"`) {
			t.Errorf("RateLimit-Policy %q", policy)
		}
		s.patch(t, "/v1/keys/"+k.id, record{"allowed_ips": []string{"10.0.0.0/8"}})
		s.call(t, "GET", s.path, k.full).rejected(http.StatusForbidden).problem("ip_not_allowed")
		s.patch(t, "/v1/keys/"+k.id, record{"allowed_ips": nil, "expires_at": nil, "credits_limit": nil})
		s.call(t, "GET", s.path, k.full).passed()
		if r := s.read(t, "/v1/keys/"+k.id); len(r.list("allowed_ips")) != 0 || r["expires_at"] != nil || r["credits_limit"] != nil {
			t.Errorf("cleared: %v", r)
		}
		s.manage(t, "PATCH", "/v1/keys/"+k.id, record{"environment": "live"}).want(http.StatusUnprocessableEntity).problem("invalid_field")
		receipt := s.post(t, k, "disable", record{"wait": "1s"})
		if receipt["status"] != "disabled" || receipt["durable"] != true || len(receipt.list("confirmed")) != 1 || receipt["pending"] == nil || len(receipt.list("pending")) != 0 {
			t.Errorf("the receipt is %v", receipt)
		}
	})

	t.Run("credits", func(t *testing.T) {
		s.tenant(t, "credits", record{"plan": "prepaid", "credits": 10})
		k := s.key(t, "credits", nil)
		s.call(t, "POST", "/v1/generate/text", k.full).passed()
		s.manage(t, "POST", "/v1/tenants/credits/credits", record{"add": 500, "reference": "invoice 7"}).want(http.StatusOK).says(`{"balance": 505}`)
		s.manage(t, "POST", "/v1/tenants/credits/credits", record{"spend": 5, "reference": "job_1"}).want(http.StatusOK).says(`{"balance": 500}`)
		s.manage(t, "POST", "/v1/tenants/credits/credits", record{"spend": 501}).want(http.StatusPaymentRequired).problem("credits_exhausted")
		s.upstream.answer("/v1/generate/broken", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
		s.call(t, "POST", "/v1/generate/broken", k.full).want(http.StatusBadGateway) // The cost is refunded because of `refund 5xx`.
		r := s.read(t, "/v1/tenants/credits/credits")
		if r["balance"] != 500.0 {
			t.Errorf("the balance is %v", r["balance"])
		}
		balance, references := 500.0, map[string]float64{}
		for _, e := range r.records("data") { // The events are listed with the newest first.
			// The entry of usage covers an hour, so a later refund changes its amount and its balance.
			if e["kind"] != "usage" && e["balance"] != balance {
				t.Errorf("after %v the balance was %v, want %v", e, e["balance"], balance)
			}
			balance -= e["amount"].(float64)
			references[e.text("reference")] = e["amount"].(float64)
		}
		if balance != 0 || references["invoice 7"] != 500 || references["job_1"] != -5 {
			t.Errorf("the ledger is %v", r["data"])
		}
	})

	t.Run("errors name the invalid field", func(t *testing.T) {
		s.tenant(t, "strict", nil)
		k := s.key(t, "strict", nil)
		for _, tt := range []struct {
			request, body string
			status        int
			code, names   string
		}{
			{"POST /v1/tenants", ``, 400, "invalid_json", ""},
			{"POST /v1/tenants", `{"slug":`, 400, "invalid_json", ""},
			{"POST /v1/tenants", `[]`, 400, "invalid_json", ""},
			{"POST /v1/tenants", `{"slug":"a","slug":"b"}`, 400, "invalid_json", ""},
			{"POST /v1/tenants", `{"slug":"a b"}`, 422, "invalid_field", "/slug"},
			{"POST /v1/tenants", `{"slug":".."}`, 422, "invalid_field", "/slug"},
			{"POST /v1/tenants", `{"slug":"a","plam":"pro"}`, 422, "unknown_field", "/plam"},
			{"POST /v1/tenants", `{"slug":"a","plan":"gold"}`, 422, "plan_unknown", "/plan"},
			{"POST /v1/tenants", `{"slug":"a","rate":"60/mn"}`, 422, "invalid_field", "/rate"},
			{"POST /v1/tenants", `{"slug":"a","credits":-1}`, 422, "invalid_field", "/credits"},
			{"POST /v1/tenants/strict/keys", `{}`, 422, "invalid_field", "/name"},
			{"POST /v1/tenants/strict/keys", `{"name":"` + strings.Repeat("x", 101) + `"}`, 422, "invalid_field", "/name"},
			{"POST /v1/tenants/strict/keys", `{"name":"a\u0000b"}`, 422, "invalid_field", "/name"},
			{"POST /v1/tenants/strict/keys", `{"name":"a","scopes":["root"]}`, 422, "invalid_field", "/scopes/0"},
			{"POST /v1/tenants/strict/keys", `{"name":"a","expires_at":"2001-01-01T00:00:00Z"}`, 422, "invalid_field", "/expires_at"},
			{"POST /v1/tenants/strict/keys", `{"name":"a","allowed_ips":["10.0.0.0/33"]}`, 422, "invalid_field", "/allowed_ips/0"},
			{"POST /v1/tenants/strict/keys", `{"name":"a","key":"kg_live_mine"}`, 422, "unknown_field", "/key"},
			{"POST /v1/tenants/nobody/keys", `{"name":"a"}`, 404, "not_found", ""},
			{"PATCH /v1/tenants/strict", `{"slug":"other"}`, 422, "invalid_field", "/slug"},
			{"PATCH /v1/keys/" + k.id, `{"tenant":"other"}`, 422, "unknown_field", "/tenant"},
			{"PATCH /v1/keys/key_none", `{"name":"a"}`, 404, "not_found", ""},
			{"POST /v1/keys/" + k.id + "/rotate", `{"grace":"soon"}`, 422, "invalid_field", "/grace"},
			{"POST /v1/keys/" + k.id + "/revoke", `{"wait":"forever"}`, 422, "invalid_field", "/wait"},
			{"POST /v1/tenants/strict/credits", `{"add":1,"spend":1}`, 422, "invalid_field", "/add"},
			{"POST /v1/tenants/strict/credits", `{"add":1.5}`, 422, "invalid_field", "/add"},
			{"POST /v1/verify", `{"key":"x","path":"hello"}`, 422, "invalid_field", "/path"},
			{"GET /v1/keys?limit=0", ``, 422, "invalid_field", "limit"},
			{"GET /v1/keys?limit=101", ``, 422, "invalid_field", "limit"},
			{"GET /v1/keys?cursor=x", ``, 422, "invalid_field", "cursor"},
			{"GET /v1/keys?status=asleep", ``, 422, "invalid_field", "status"},
			{"GET /v1/keys?tennant=strict", ``, 422, "unknown_field", "tennant"},
			{"GET /v1/nothing", ``, 404, "not_found", ""},
			{"GET /v2/keys", ``, 404, "not_found", ""},
			{"PUT /v1/keys/" + k.id, `{}`, 405, "method_not_allowed", ""},
		} {
			method, path, _ := strings.Cut(tt.request, " ")
			a := s.manage(t, method, path, tt.body)
			if a.status != tt.status {
				t.Errorf("%s %s answered %d %s, want %d", tt.request, tt.body, a.status, a.body, tt.status)
				continue
			}
			names := ""
			if errs := a.problem(tt.code).records("errors"); len(errs) > 0 {
				names = errs[0].text("pointer") + errs[0].text("parameter")
			}
			if names != tt.names {
				t.Errorf("%s %s names %q, want %q", tt.request, tt.body, names, tt.names)
			}
		}
		// The rejected requests have written no audit events.
		if n := len(s.read(t, "/v1/audit?tenant=strict").records("data")); n != 2 {
			t.Errorf("the tenant has %d events, want 2", n)
		}
	})

	t.Run("If-Match", func(t *testing.T) {
		s.tenant(t, "etag", nil)
		k := s.key(t, "etag", nil)
		for _, path := range []string{"/v1/tenants/etag", "/v1/keys/" + k.id} {
			first := s.manage(t, "GET", path, nil).want(http.StatusOK).header.Get("ETag")
			if !strings.HasPrefix(first, `"`) {
				t.Fatalf("%s: ETag %q", path, first)
			}
			second := s.manage(t, "PATCH", path, record{"name": "b"}, "If-Match", first).want(http.StatusOK).header.Get("ETag")
			if second == first {
				t.Errorf("%s: a change leaves the ETag %s", path, first)
			}
			s.manage(t, "PATCH", path, record{"name": "c"}, "If-Match", first).want(http.StatusPreconditionFailed).problem("precondition_failed")
			s.manage(t, "DELETE", path, nil, "If-Match", first).want(http.StatusPreconditionFailed).problem("precondition_failed")
			if got := s.manage(t, "GET", path, nil); got.json()["name"] != "b" || got.header.Get("ETag") != second {
				t.Errorf("%s: a rejected change changed the record: %s", path, got.body)
			}
			s.manage(t, "PATCH", path, record{"name": "c"}, "If-Match", `"x", `+second).want(http.StatusOK)
		}
		s.manage(t, "PUT", "/v1/tenants/etag", record{"name": "d"}, "If-Match", `"1"`).want(http.StatusPreconditionFailed)
		s.manage(t, "DELETE", "/v1/keys/"+k.id, nil, "If-Match", "*").want(http.StatusNoContent)
	})

	t.Run("pages stay correct while keys are added and deleted", func(t *testing.T) {
		s.tenant(t, "pages", nil)
		want := map[string]bool{}
		var keys []key
		for i := range 23 {
			k := s.key(t, "pages", record{"name": fmt.Sprint("k", i)})
			want[k.id], keys = true, append(keys, k)
		}
		seen := map[string]bool{}
		path, pages := "/v1/tenants/pages/keys?limit=5", 0
		for {
			r := s.read(t, path)
			for _, k := range r.records("data") {
				if seen[k.text("id")] {
					t.Errorf("%s is listed twice", k.text("name"))
				}
				seen[k.text("id")] = true
			}
			if pages++; r["next_cursor"] == nil {
				break
			}
			path = query("/v1/tenants/pages/keys", "limit", "5", "cursor", r.text("next_cursor"))
			if pages == 1 {
				// Between the pages, a key is added, a listed key is deleted, and a key that is
				// not listed yet is deleted.
				s.post(t, keys[22], "revoke", nil)
				s.manage(t, "DELETE", "/v1/keys/"+keys[22].id, nil).want(http.StatusNoContent)
				s.manage(t, "DELETE", "/v1/keys/"+keys[3].id, nil).want(http.StatusNoContent)
				s.key(t, "pages", nil)
				delete(want, keys[3].id)
			}
		}
		if len(seen) != len(want) || pages != 5 {
			t.Errorf("%d keys on %d pages, want %d", len(seen), pages, len(want))
		}
		for id := range want {
			if !seen[id] {
				t.Errorf("%s is not listed", id)
			}
		}
		// Filters work, and a cursor of another list is rejected.
		s.post(t, keys[0], "revoke", nil)
		if r := s.read(t, "/v1/keys?tenant=pages&status=revoked").records("data"); len(r) != 1 || r[0]["id"] != keys[0].id {
			t.Errorf("revoked ones: %v", r)
		}
		if r := s.read(t, "/v1/keys?prefix="+keys[1].full[:12]).records("data"); len(r) != 1 || r[0]["id"] != keys[1].id {
			t.Errorf("by prefix: %v", r)
		}
		tenants := s.read(t, "/v1/tenants?limit=1")
		s.manage(t, "GET", query("/v1/keys", "cursor", tenants.text("next_cursor")), nil).want(http.StatusUnprocessableEntity)
		if n := len(s.read(t, "/v1/audit?tenant=pages&limit=100").records("data")); n != 1+23+2+3 {
			t.Errorf("%d events, want %d", n, 1+23+2+3)
		}
		// The command lists all pages.
		if n := len(s.keygate(t, "key", "list", "--tenant", "pages", "--json").json().list("data")); n != 22 {
			t.Errorf("the command lists %d keys, want 22", n)
		}
	})

	t.Run("verify spends, explain does not", func(t *testing.T) {
		s.tenant(t, "checks", record{"plan": "prepaid", "credits": 20})
		k := s.key(t, "checks", record{"scopes": []string{"read"}, "rate": "5/h", "allowed_ips": []string{"192.0.2.0/24"}})
		ask := func(verb string, fields record) record {
			t.Helper()
			body := record{"key": k.full, "method": "GET", "path": "/v1/x", "ip": "192.0.2.7"}
			for name, v := range fields {
				body[name] = v
			}
			return s.manage(t, "POST", "/v1/"+verb, body).want(http.StatusOK).json()
		}
		for range 8 {
			if r := ask("explain", nil); r["allowed"] != true || len(r.list("checks")) < 5 {
				t.Fatalf("explain: %v", r)
			}
		}
		for i := range 4 {
			r := ask("verify", nil)
			headers, _ := r["headers"].(map[string]any)
			if r["allowed"] != true || r["reason"] != "allowed" || r["status"] != 200.0 || r["tenant"] != "checks" || r["plan"] != "prepaid" ||
				r["key_id"] != k.id || headers["X-RateLimit-Remaining"] != fmt.Sprint(4-i) {
				t.Errorf("verify %d: %v", i+1, r)
			}
		}
		if got := s.balance(t, "checks"); got != 16 {
			t.Errorf("the balance is %d, want 16", got)
		}
		for _, tt := range []struct {
			fields record
			status float64
			reason string
		}{
			{record{"method": "POST"}, 403, "insufficient_scope"},
			{record{"path": "/admin"}, 403, "insufficient_scope"},
			{record{"ip": "203.0.113.9"}, 403, "ip_not_allowed"},
			{record{"ip": ""}, 403, "ip_not_allowed"},
			{record{"cost": 17}, 402, "credits_exhausted"},
			{record{"key": s.unknown()}, 401, "invalid_key"},
			{record{"key": "kg_live_short"}, 401, "malformed_key"},
			{record{"key": ""}, 401, "missing_key"},
		} {
			for _, verb := range []string{"explain", "verify"} {
				r := ask(verb, tt.fields)
				if r["allowed"] != false || r["status"] != tt.status || r["reason"] != tt.reason || r.text("message") == "" {
					t.Errorf("%s %v: %v", verb, tt.fields, r)
				}
				failed := func(c record) bool { return c["ok"] == false }
				if checks := r.records("checks"); verb == "explain" && !slices.ContainsFunc(checks, failed) {
					t.Errorf("%s %v: every check passed: %v", verb, tt.fields, checks)
				}
			}
		}
		if r := ask("verify", record{"key": "", "path": "/health"}); r["allowed"] != true {
			t.Errorf("a public path: %v", r)
		}
		if got := s.balance(t, "checks"); got != 16 {
			t.Errorf("a rejected request was charged: the balance is %d", got)
		}
		// Requests through the proxy count against the same limits.
		ask("verify", nil)
		r := ask("verify", nil)
		headers, _ := r["headers"].(map[string]any)
		if r["reason"] != "rate_limited" || r["status"] != 429.0 || headers["Retry-After"] == nil {
			t.Errorf("the sixth of five: %v", r)
		}
		s.patch(t, "/v1/keys/"+k.id, record{"allowed_ips": nil})
		s.call(t, "GET", "/v1/x", k.full).rejected(http.StatusTooManyRequests)
		s.post(t, k, "revoke", nil)
		if r := ask("verify", nil); r["reason"] != "revoked_key" || r["status"] != 401.0 {
			t.Errorf("revoked: %v", r)
		}
	})

	t.Run("plans and status", func(t *testing.T) {
		plans := s.read(t, "/v1/plans").records("data")
		if len(plans) != 3 || plans[0]["name"] != "free" || plans[0]["default"] != true || plans[0]["max_keys"] != 3.0 ||
			plans[1]["name"] != "pro" || len(plans[1].records("limits")) != 3 || plans[2]["name"] != "prepaid" {
			t.Errorf("the plans are %v", plans)
		}
		for _, p := range plans {
			if p["on_leak"] != "report" || p["on_redis_down"] != "local" || len(p.list("was")) != 0 || p["deny"] != false || p["observe"] != false {
				t.Errorf("the plan is %v", p)
			}
		}
		r := s.read(t, "/v1/status")
		nodes := r.records("nodes")
		if r["degraded"] != false || !slices.Equal(r.list("keyspaces"), []any{"default"}) || len(nodes) != 1 || nodes[0]["ready"] != true || nodes[0]["lag"] != 0.0 || r.text("started_at") == "" {
			t.Errorf("the status is %v", r)
		}
	})

	t.Run("a page of another site can't use the API", func(t *testing.T) {
		s.manage(t, "POST", "/v1/tenants", record{"slug": "evil"}, "Origin", "https://evil.example").want(http.StatusForbidden)
		s.manage(t, "POST", "/v1/tenants", record{"slug": "evil"}, "Origin", "null", "Sec-Fetch-Mode", "no-cors").want(http.StatusBadRequest)
		s.manage(t, "GET", "/v1/tenants/evil", nil).want(http.StatusNotFound)
	})
}
