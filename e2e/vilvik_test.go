package e2e

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
)

// TestVilvik checks what the web page of the product Vilvik promises in "Creating and managing API keys".
func TestVilvik(t *testing.T) {
	t.Parallel()
	s := startProduct(t, vilvik)

	t.Run("name, description, scopes, expiry", func(t *testing.T) {
		s.tenant(t, "create", nil)
		until := after(time.Hour)
		k := s.key(t, "create", record{
			"name": "ci-runner", "description": "Runs the tests.\nEvery night.", "scopes": []string{"read"}, "expires_at": until,
		})
		s.shaped(t, k.full)
		r := s.read(t, "/v1/keys/"+k.id)
		if r["name"] != "ci-runner" || r["description"] != "Runs the tests.\nEvery night." || !slices.Equal(r.list("scopes"), []any{"read"}) || r["expires_at"] == nil {
			t.Errorf("the record is %v", r)
		}
		get := func() *answer { return s.call(t, "GET", "/v1/models", k.full) }
		post := func() *answer { return s.call(t, "POST", "/v1/models", k.full) }
		get().passed()
		a := post().rejected(http.StatusForbidden)
		a.problem("insufficient_scope")
		if c := a.header.Get("WWW-Authenticate"); !strings.Contains(c, `error="insufficient_scope"`) || !strings.Contains(c, `scope="write"`) {
			t.Errorf("WWW-Authenticate %q", c)
		}
		r = s.patch(t, "/v1/keys/"+k.id, record{"name": "ci-2", "scopes": []string{"write"}})
		if r["name"] != "ci-2" || !slices.Equal(r.list("scopes"), []any{"write"}) {
			t.Errorf("changed, the record is %v", r)
		}
		get().rejected(http.StatusForbidden)
		if got := post().passed().reached.header.Get("X-Key-Name"); got != "ci-2" {
			t.Errorf("X-Key-Name %q", got)
		}
		s.keygate(t, "key", "update", k.id, "--scope", "read", "--scope", "write", "--expires", "never").exits(0)
		get().passed()
		if got := post().passed().reached.header.Get("X-Key-Scopes"); got != "read write" {
			t.Errorf("X-Key-Scopes %q", got)
		}
	})

	t.Run("no scope includes another", func(t *testing.T) {
		s.tenant(t, "scopes", nil)
		for scope, allowed := range map[string][]string{
			"read":  {"GET /v1/x", "HEAD /v1/x", "GET /"},
			"write": {"POST /v1/x", "PUT /v1/x", "DELETE /v1/x", "PATCH /"},
			"admin": {"GET /v1/admin/users", "POST /v1/admin/users", "DELETE /v1/admin", "HEAD /v1/admin/x"},
		} {
			k := s.key(t, "scopes", record{"scopes": []string{scope}})
			requests := []string{
				"GET /v1/x", "HEAD /v1/x", "GET /", "POST /v1/x", "PUT /v1/x", "DELETE /v1/x", "PATCH /",
				"GET /v1/admin/users", "POST /v1/admin/users", "DELETE /v1/admin", "HEAD /v1/admin/x",
			}
			if scope != "admin" {
				// Another spelling of a path does not avoid its scope.
				requests = append(requests, "GET /v1/./admin/users", "GET /v1/ADMIN/users", "GET /v1/%61dmin/users", "POST /v1//admin/")
			}
			for _, request := range requests {
				method, path, _ := strings.Cut(request, " ")
				a := s.call(t, method, path, k.full)
				if slices.Contains(allowed, request) {
					a.passed()
				} else {
					a.rejected(http.StatusForbidden)
				}
			}
			s.call(t, "GET", "/v1%2fadmin%2fusers", k.full).rejected(http.StatusBadRequest).problem("ambiguous_path")
			s.post(t, k, "revoke", nil)
		}
	})

	t.Run("a sample curl with the key in it", func(t *testing.T) {
		s.tenant(t, "curl", nil)
		k := s.key(t, "curl", nil)
		byCommand := s.keygate(t, "key", "create", "--tenant", "curl", "--name", "cli").exits(0)
		printed := regexp.MustCompile(`(?m)curl .*$`).FindString(byCommand.out)
		full := regexp.MustCompile(`vlk_[0-9A-Za-z]+`).FindString(byCommand.out)
		s.keep(full)
		s.shaped(t, full)
		for full, curl := range map[string]string{k.full: k.record.text("curl"), full: printed} {
			m := regexp.MustCompile(`^curl -H '([^:']+): ([^']+)' (http://127\.0\.0\.1:\d+)(/\S*)$`).FindStringSubmatch(curl)
			if m == nil {
				t.Fatalf("the curl is %q", curl)
			}
			if m[3] != s.site || !strings.Contains(m[2], full) {
				t.Errorf("the curl %q asks another site, or with another key", curl)
			}
			s.send(t, "GET", m[4], "", m[1], m[2]).passed()
		}
		if n := strings.Count(byCommand.out, full); n != 2 {
			t.Errorf("the command prints the key %d times, want twice, with its record and in the curl:\n%s", n, byCommand.out)
		}
	})

	t.Run("list: prefix, scopes, last used when and from where", func(t *testing.T) {
		s.tenant(t, "list", nil)
		k := s.key(t, "list", record{"scopes": []string{"read"}})
		idle := s.key(t, "list", nil)
		usedAfter(t, s, k, time.Time{}, func() { s.call(t, "GET", s.path, k.full).passed() })
		list := s.read(t, "/v1/tenants/list/keys").records("data")
		if len(list) != 2 || list[0].text("id") != idle.id || list[1].text("id") != k.id {
			t.Fatalf("the list is %v", list)
		}
		r := list[1]
		if r["key_prefix"] != k.full[:12] || !slices.Equal(r.list("scopes"), []any{"read"}) || r["last_used_at"] == nil || r["last_used_ip"] != "127.0.0.1" {
			t.Errorf("the used key is listed as %v", r)
		}
		if r := list[0]; r["last_used_at"] != nil || r["last_used_ip"] != nil {
			t.Errorf("the unused key is listed as %v", r)
		}
		out := s.keygate(t, "key", "list", "--tenant", "list").exits(0).out
		if !strings.Contains(out, k.full[:12]) || !strings.Contains(out, "read") || strings.Contains(out, k.full[:20]) {
			t.Errorf("the command lists\n%s", out)
		}
	})

	t.Run("audit log per key", func(t *testing.T) {
		s.tenant(t, "audit", nil)
		begin := time.Now().Add(-time.Second)
		k := s.key(t, "audit", nil)
		s.patch(t, "/v1/keys/"+k.id, record{"name": "renamed"})
		s.patch(t, "/v1/keys/"+k.id, record{"name": "renamed"}) // The same name again changes nothing.
		s.keygate(t, "key", "rotate", k.id, "--actor", "ada@example.com", "--json").exits(0)
		s.post(t, k, "disable", nil)
		s.post(t, k, "enable", nil)
		s.manage(t, "POST", "/v1/keys/"+k.id+"/revoke", nil, "Keygate-Actor", "Gr%C3%A9ta", "Keygate-Actor-IP", "192.0.2.7").want(http.StatusOK)
		events := s.read(t, "/v1/audit?key="+k.id).records("data")
		want := []struct{ action, actor, ip, via string }{
			{"key.revoked", "Gréta", "192.0.2.7", "admin"},
			{"key.enabled", "admin", "127.0.0.1", "admin"},
			{"key.disabled", "admin", "127.0.0.1", "admin"},
			{"key.rotated", "ada@example.com", "127.0.0.1", "cli"},
			{"key.updated", "admin", "127.0.0.1", "admin"},
			{"key.created", "admin", "127.0.0.1", "admin"},
		}
		if len(events) != len(want) {
			t.Fatalf("%d events, want %d: %v", len(events), len(want), events)
		}
		for i, w := range want {
			e := events[i]
			at, err := time.Parse(time.RFC3339Nano, e.text("at"))
			if e["action"] != w.action || e["actor"] != w.actor || e["ip"] != w.ip || e["via"] != w.via || e["key"] != k.id || e["tenant"] != "audit" ||
				err != nil || at.Before(begin) || at.After(time.Now()) {
				t.Errorf("event %d is %v, want %v", i, e, w)
			}
		}
		before, _ := events[4]["before"].(map[string]any)
		now, _ := events[4]["after"].(map[string]any)
		if len(before) != 1 || len(now) != 1 || before["name"] != "test" || now["name"] != "renamed" {
			t.Errorf("the change is %v → %v", before, now)
		}
		// The audit log only grows: no request changes or removes an event.
		for _, method := range []string{"POST", "PUT", "PATCH", "DELETE"} {
			s.manage(t, method, "/v1/audit", record{}).want(http.StatusMethodNotAllowed)
			if a := s.manage(t, method, "/v1/audit/"+events[0].text("id"), record{}); a.status != http.StatusNotFound && a.status != http.StatusMethodNotAllowed {
				t.Errorf("%s of an event answered %d", method, a.status)
			}
		}
		s.manage(t, "DELETE", "/v1/keys/"+k.id, nil).want(http.StatusNoContent)
		if n := len(s.read(t, "/v1/audit?key="+k.id).records("data")); n != len(want)+1 {
			t.Errorf("of a deleted key there are %d events, want %d", n, len(want)+1)
		}
		if r := s.read(t, "/v1/audit/verify"); r["intact"] != true {
			t.Errorf("the chain is %v", r)
		}
		s.keygate(t, "audit", "--verify").exits(0)
	})

	t.Run("rotate: the old secret ends at once", func(t *testing.T) {
		s.tenant(t, "rotate", nil)
		k := s.key(t, "rotate", record{"scopes": []string{"read"}, "rate": "100/h"})
		for range 4 {
			s.call(t, "GET", s.path, k.full).passed()
			next := s.made(t, s.post(t, k, "rotate", nil))
			if next.id != k.id || !slices.Equal(next.record.list("scopes"), []any{"read"}) || next.record["rate"] != "100/h" || next.full == k.full {
				t.Errorf("rotated, the record is %v", next.record)
			}
			s.call(t, "GET", s.path, k.full).rejected(http.StatusUnauthorized)
			s.call(t, "GET", s.path, next.full).passed()
			s.call(t, "POST", s.path, next.full).rejected(http.StatusForbidden).problem("insufficient_scope")
			k = next
		}
		// A rotation does not reset the key's limit: at least eight requests have been counted.
		if left := s.call(t, "GET", s.path, k.full).passed().number("X-RateLimit-Remaining"); left > 92 {
			t.Errorf("after rotations %d requests remain", left)
		}
		s.shownOnce(t, k)
	})

	t.Run("a revocation is permanent", func(t *testing.T) {
		s.tenant(t, "revoke", nil)
		k := s.key(t, "revoke", nil)
		s.call(t, "GET", s.path, k.full).passed()
		s.keygate(t, "key", "revoke", k.id).exits(0)
		for _, path := range []string{s.path, "/", "/v1/admin/x"} {
			s.call(t, "GET", path, k.full).rejected(http.StatusUnauthorized).problem("revoked_key")
		}
		for _, verb := range []string{"enable", "rotate"} {
			s.manage(t, "POST", "/v1/keys/"+k.id+"/"+verb, nil).want(http.StatusConflict).problem("key_revoked")
			s.keygate(t, "key", verb, k.id).exits(1)
		}
		s.manage(t, "PATCH", "/v1/keys/"+k.id, record{"name": "back"}).want(http.StatusConflict).problem("key_revoked")
		s.post(t, k, "revoke", nil) // Revoking the key a second time changes nothing.
		s.restart()
		s.call(t, "GET", s.path, k.full).rejected(http.StatusUnauthorized).problem("revoked_key")
	})

	t.Run("the plan limits the number of active keys", func(t *testing.T) {
		s.tenant(t, "cap", record{"plan": "free"})
		var keys []key
		for range 3 {
			keys = append(keys, s.key(t, "cap", nil))
		}
		full := func() {
			t.Helper()
			p := s.manage(t, "POST", "/v1/tenants/cap/keys", record{"name": "one more"}).want(http.StatusConflict).problem("key_limit_reached")
			if !strings.Contains(p.text("detail"), "3") {
				t.Errorf("the error does not state the limit: %s", p.text("detail"))
			}
		}
		full()
		if r := s.keygate(t, "key", "create", "--tenant", "cap", "--name", "x").exits(1); !strings.Contains(r.err, "3") {
			t.Errorf("the command prints %s", r.err)
		}
		// Only active keys count.
		s.post(t, keys[0], "disable", nil)
		keys = append(keys, s.key(t, "cap", record{"expires_at": after(300 * time.Millisecond)}))
		full()
		s.manage(t, "POST", "/v1/keys/"+keys[0].id+"/enable", nil).want(http.StatusConflict).problem("key_limit_reached")
		testkit.Eventually(t, "the key has expired", func() bool { return s.read(t, "/v1/keys/"+keys[3].id)["status"] == "expired" })
		s.post(t, keys[0], "enable", nil)
		full()
		s.post(t, keys[1], "revoke", nil)
		s.key(t, "cap", nil)
		full()
		if r := s.read(t, "/v1/tenants/cap"); r["keys_active"] != 3.0 || r["max_keys"] != 3.0 {
			t.Errorf("the tenant is %v", r)
		}
		// The plan premium allows more keys. After a downgrade, these keys still work.
		s.patch(t, "/v1/tenants/cap", record{"plan": "premium"})
		more := s.key(t, "cap", nil)
		s.patch(t, "/v1/tenants/cap", record{"plan": "free"})
		for _, k := range []key{more, keys[0], keys[2]} {
			s.call(t, "GET", s.path, k.full).passed()
		}
		full4 := s.manage(t, "POST", "/v1/tenants/cap/keys", record{"name": "x"}).want(http.StatusConflict)
		full4.problem("key_limit_reached")
		s.made(t, s.post(t, more, "rotate", nil)) // A rotation creates no further key.
	})

	t.Run("many creations at once stay within the cap", func(t *testing.T) {
		s.tenant(t, "many", record{"plan": "premium"})
		var made, rejected atomic.Int64
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				for range 10 {
					switch a := s.manage(t, "POST", "/v1/tenants/many/keys", record{"name": "x"}); a.status {
					case http.StatusCreated:
						made.Add(1)
					case http.StatusConflict:
						rejected.Add(1)
					default:
						t.Errorf("%d %s", a.status, a.body)
					}
				}
			})
		}
		wg.Wait()
		if made.Load() != 25 || rejected.Load() != 975 {
			t.Errorf("%d were created and %d rejected, of 1000 against a cap of 25", made.Load(), rejected.Load())
		}
		if r := s.read(t, "/v1/audit/verify"); r["intact"] != true {
			t.Errorf("the chain is %v", r)
		}
	})
}
