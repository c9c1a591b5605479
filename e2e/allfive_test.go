package e2e

import (
	"net/http"
	"testing"
)

// TestAllFive runs all five products in one process. Each product must behave as it does alone, and
// accept no keys of the other products.
func TestAllFive(t *testing.T) {
	t.Parallel()
	up := newUpstream(t)
	g := start(t, shipped(t, "configs/all-five.Caddyfile"), up)
	sites := map[string]*site{}
	keys := map[string]key{}
	for _, p := range products {
		s := &site{gateway: g, product: p, mount: "/" + p.name}
		sites[p.name] = s
		// All products have a tenant with the same slug. The tenants have nothing else in common.
		s.tenant(t, "acme", record{"name": p.name, "credits": 20})
		keys[p.name] = s.key(t, "acme", nil)
	}

	t.Run("each product has its own error messages", func(t *testing.T) {
		for name, body := range map[string]string{
			"convilyn": `{"type": "about:blank", "title": "Unauthorized", "status": 401, "detail": "API key required.", "code": "missing_key"}`,
			"convoy":   `{"detail": "API key required. Include X-API-Key header."}`,
			"vilvik":   `{"type": "about:blank", "title": "Unauthorized", "status": 401, "detail": "API key required.", "code": "missing_key"}`,
			"converra": `{"error": {"code": "UNAUTHORIZED", "message": "Authorization header required"}}`,
			"knouds":   `{"type": "about:blank", "title": "Unauthorized", "status": 401, "detail": "API key required.", "code": "missing_key"}`,
		} {
			s := sites[name]
			s.call(t, "GET", s.path, "").rejected(http.StatusUnauthorized).says(body)
		}
		for name, body := range map[string]string{
			"convoy": `{"detail": "Invalid API key."}`, "converra": `{"error": {"code": "UNAUTHORIZED", "message": "Invalid API key"}}`,
		} {
			s := sites[name]
			s.call(t, "GET", s.path, s.unknown()).rejected(http.StatusUnauthorized).says(body)
		}
	})

	t.Run("each accepts only its own keys", func(t *testing.T) {
		for _, s := range sites {
			k := keys[s.name]
			s.shaped(t, k.full)
			a := s.call(t, "GET", s.path, k.full)
			if a.reached == nil || a.status == http.StatusUnauthorized {
				t.Fatalf("%s answered %d %s", s.name, a.status, a.body)
			}
			for name, want := range map[string]string{"X-Tenant-Id": "acme", "X-Tenant-Plan": s.plan, "X-Key-Id": k.id} {
				if got := a.reached.header.Get(name); got != want {
					t.Errorf("%s: %s is %q, want %q", s.name, name, got, want)
				}
			}
			if a.reached.uri != s.path {
				t.Errorf("%s: the upstream was asked for %s", s.name, a.reached.uri)
			}
			for _, foreign := range sites {
				if foreign != s {
					s.call(t, "GET", s.path, keys[foreign.name].full).rejected(http.StatusUnauthorized)
					s.manage(t, "GET", "/v1/keys/"+keys[foreign.name].id, nil).want(http.StatusNotFound).problem("not_found")
					s.manage(t, "POST", "/v1/keys/"+keys[foreign.name].id+"/revoke", nil).want(http.StatusNotFound)
				}
			}
			for _, r := range s.read(t, "/v1/keys").records("data") {
				if r["id"] != k.id {
					t.Errorf("%s lists the key %v", s.name, r)
				}
			}
		}
	})

	t.Run("plans, limits, scopes and public paths work as in the product alone", func(t *testing.T) {
		s := sites["convilyn"]
		k := s.key(t, "acme", nil)
		s.call(t, "POST", "/api/v1/workflows/x", k.full).passed()
		if got := s.balance(t, "acme"); got != 14 { // The request that was sent before the subtests spent one credit.
			t.Errorf("convilyn: the balance is %d, want 14", got)
		}
		if got := sites["converra"].balance(t, "acme"); got != 20 {
			t.Errorf("converra: the balance is %d, want 20", got)
		}
		s.patch(t, "/v1/tenants/acme", record{"plan": "free"})
		s.call(t, "GET", s.path, k.full).rejected(http.StatusForbidden).problem("plan_not_allowed")

		s = sites["convoy"]
		s.call(t, "GET", "/docs", "", "X-Tenant-ID", "evil").passed()
		cargo := s.call(t, "POST", "/cargo/load", keys["convoy"].full).want(http.StatusAccepted).json().text("cargo_id")
		s.call(t, "GET", "/cargo/"+cargo+"/tracking", keys["convoy"].full).passed()
		s.tenant(t, "stranger", nil)
		s.call(t, "GET", "/cargo/"+cargo+"/tracking", s.key(t, "stranger", nil).full).want(http.StatusNotFound).says(`{"detail": "Cargo not found"}`)
		s.patch(t, "/v1/tenants/acme", record{"active": false})
		s.call(t, "POST", "/cargo/load", keys["convoy"].full).rejected(http.StatusForbidden).says(`{"detail": "Project is inactive."}`)

		s = sites["vilvik"]
		k = s.key(t, "acme", record{"scopes": []string{"read"}})
		s.call(t, "GET", "/v1/x", k.full).passed()
		s.call(t, "POST", "/v1/x", k.full).rejected(http.StatusForbidden).problem("insufficient_scope")
		s.key(t, "acme", nil)
		s.manage(t, "POST", "/v1/tenants/acme/keys", record{"name": "x"}).want(http.StatusConflict).problem("key_limit_reached")

		s = sites["converra"]
		perMinute(t, s, s.key(t, "acme", record{"environment": "test"}), 60)

		s = sites["knouds"]
		s.patch(t, "/v1/tenants/acme", record{"plan": "free"})
		s.call(t, "POST", "/api/workflows/x/run", keys["knouds"].full).passed()
		s.call(t, "GET", "/api/workflows", keys["knouds"].full).rejected(http.StatusForbidden)
		s.patch(t, "/v1/tenants/acme", record{"plan": "business"})
	})

	t.Run("a key revoked in one product leaves the others unchanged", func(t *testing.T) {
		for _, s := range sites {
			s.patch(t, "/v1/tenants/acme", record{"plan": s.plan, "active": true})
			k := keys[s.name]
			s.keygate(t, "key", "revoke", k.id, "--keyspace", s.name).exits(0)
			s.call(t, "GET", s.path, k.full).rejected(http.StatusUnauthorized)
			if events := s.read(t, "/v1/audit?key="+k.id).records("data"); len(events) != 2 || events[0]["action"] != "key.revoked" || events[0]["via"] != "cli" {
				t.Errorf("%s: the key's events are %v", s.name, events)
			}
		}
		if r := g.api(t, "GET", "/v1/audit/verify", nil).want(http.StatusOK).json(); r["intact"] != true {
			t.Errorf("the chain is %v", r)
		}
		// The configuration has several keyspaces and none called default, so a call of the management API
		// must name a keyspace.
		g.api(t, "GET", "/v1/keys", nil).want(http.StatusNotFound).problem("not_found")
		g.api(t, "GET", "/v1/keys?keyspace=nowhere", nil).want(http.StatusNotFound).problem("not_found")
		g.keygate(t, "key", "list").exits(1)
		g.keygate(t, "status").exits(0)
		g.keygate(t, "audit", "--verify").exits(0)
	})
}

// TestKeyspacesWithTheSamePrefix checks that two keyspaces with the same prefix reject each other's keys.
func TestKeyspacesWithTheSamePrefix(t *testing.T) {
	t.Parallel()
	const config = `{
		admin {$KEYGATE_ADMIN}
		keygate {
			store sqlite {$KEYGATE_DB}
			keyspace one {
				prefix kg_live_ live
			}
			keyspace two {
				prefix kg_live_ live
			}
		}
	}
	{$KEYGATE_LISTEN} {
		handle_path /one/* {
			keygate one
			reverse_proxy {$KEYGATE_UPSTREAM}
		}
		handle_path /two/* {
			keygate two
			reverse_proxy {$KEYGATE_UPSTREAM}
		}
	}`
	g := start(t, written(t, config), newUpstream(t))
	one := &site{gateway: g, product: product{name: "one", prefix: "kg_live_", random: 32, checksum: 6}, mount: "/one"}
	two := &site{gateway: g, product: product{name: "two", prefix: "kg_live_", random: 32, checksum: 6}, mount: "/two"}
	var keys [2]key
	for i, s := range []*site{one, two} {
		s.manage(t, "POST", "/v1/tenants", record{"slug": "acme"}).want(http.StatusCreated)
		keys[i] = s.key(t, "acme", nil)
	}
	for range 2 {
		one.call(t, "GET", "/", keys[0].full).passed()
		two.call(t, "GET", "/", keys[1].full).passed()
		one.call(t, "GET", "/", keys[1].full).rejected(http.StatusUnauthorized).problem("invalid_key")
		two.call(t, "GET", "/", keys[0].full).rejected(http.StatusUnauthorized).problem("invalid_key")
		for _, s := range []*site{one, two} {
			r := s.manage(t, "POST", "/v1/verify", record{"key": keys[0].full}).want(http.StatusOK).json()
			if r["allowed"] != (s == one) {
				t.Errorf("verify in %s: %v", s.name, r)
			}
		}
	}
}
