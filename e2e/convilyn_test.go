package e2e

import (
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keygate-dev/keygate/internal/testkit"
)

// TestConvilyn checks what the web page https://convilyn.corenovus.com promises in "API keys".
func TestConvilyn(t *testing.T) {
	t.Parallel()
	s := startProduct(t, convilyn)

	t.Run("keys begin with ck_ and are sent as a Bearer token", func(t *testing.T) {
		s.tenant(t, "shape", record{"credits": 100})
		k := s.key(t, "shape", nil)
		s.shaped(t, k.full)
		for _, scheme := range []string{"Bearer ", "bearer ", "BEARER  "} {
			s.send(t, "GET", s.path, "", "Authorization", scheme+k.full).passed()
		}
		for name, sent := range map[string]string{
			"the page's example": "ck_your_key",
			"another product's":  converra.unknown(),
			"without the prefix": strings.TrimPrefix(k.full, "ck_"),
			"in capitals":        "CK_" + strings.TrimPrefix(k.full, "ck_"),
			"cut short":          k.full[:len(k.full)-1],
			"one too long":       k.full + "a",
			"a wrong checksum":   k.full[:len(k.full)-1] + other(k.full[len(k.full)-1]),
			"twice":              k.full + "," + k.full,
			"a space inside":     k.full[:9] + " " + k.full[9:],
			"not ASCII":          k.full + "é",
		} {
			a := s.call(t, "GET", s.path, sent).rejected(http.StatusUnauthorized)
			if p := a.problem("malformed_key"); p.text("detail") != "Invalid API key format." {
				t.Errorf("%s: %v", name, p)
			}
			if c := a.header.Get("WWW-Authenticate"); !strings.Contains(c, `error="invalid_token"`) {
				t.Errorf("%s: WWW-Authenticate %q", name, c)
			}
		}
		s.call(t, "GET", s.path, s.unknown()).rejected(http.StatusUnauthorized).problem("invalid_key")
		for name, header := range map[string][]string{
			"none": nil, "another scheme": {"Authorization", "Basic dXNlcjpwYXNz"}, "empty": {"Authorization", "Bearer "},
			"another place": {"X-API-Key", k.full},
		} {
			a := s.send(t, "GET", s.path, "", header...).rejected(http.StatusUnauthorized)
			a.problem("missing_key")
			if c := a.header.Get("WWW-Authenticate"); strings.Contains(c, "error=") {
				t.Errorf("%s: WWW-Authenticate %q", name, c)
			}
		}
		b := s.key(t, "shape", nil)
		s.send(t, "GET", s.path, "", "Authorization", "Bearer "+k.full, "Authorization", "Bearer "+b.full).rejected(http.StatusBadRequest)
	})

	t.Run("the upstream gets the caller's context and no key", func(t *testing.T) {
		s.tenant(t, "context", record{"credits": 100})
		k := s.key(t, "context", record{"name": "Zoë's desktop"})
		a := s.call(t, "GET", s.path, k.full,
			"X-Tenant-Id", "evil", "x_tenant_id", "evil", "X-Key.Name", "evil", "Connection", "X-Tenant-Id, X-Key-Id").passed()
		for name, want := range map[string]string{
			"X-Tenant-Id": "context", "X-Tenant-Plan": "business", "X-Key-Id": k.id, "X-Key-Name": "Zo%C3%AB's desktop", "X-Key-Environment": "live",
		} {
			if got := a.reached.header.Values(name); len(got) != 1 || got[0] != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
		for name, values := range a.reached.header {
			if v := strings.Join(values, " "); strings.Contains(v, "evil") || strings.Contains(v, k.full) || name == "Authorization" {
				t.Errorf("the upstream saw %s: %s", name, v)
			}
		}
	})

	t.Run("revoked at any time, at once", func(t *testing.T) {
		s.tenant(t, "revoke", record{"credits": 1_000_000})
		for range 10 {
			k := s.key(t, "revoke", nil)
			s.call(t, "GET", s.path, k.full).passed()
			s.post(t, k, "revoke", nil)
			s.call(t, "GET", s.path, k.full).rejected(http.StatusUnauthorized).problem("revoked_key")
		}
		revokedUnderLoad(t, s, s.key(t, "revoke", nil))
	})

	t.Run("API access is a Business-plan feature", func(t *testing.T) {
		s.tenant(t, "plans", record{"plan": "free", "credits": 100})
		k := s.key(t, "plans", nil)
		a := s.call(t, "GET", s.path, k.full).rejected(http.StatusForbidden)
		if p := a.problem("plan_not_allowed"); p.text("detail") != "API access is not part of the tenant's plan." {
			t.Errorf("the reason is %v", p)
		}
		s.patch(t, "/v1/tenants/plans", record{"plan": "business"})
		s.call(t, "GET", s.path, k.full).passed()
		s.patch(t, "/v1/tenants/plans", record{"plan": "free"})
		s.call(t, "GET", s.path, k.full).rejected(http.StatusForbidden).problem("plan_not_allowed")
		// A tenant that is created without a plan gets the default plan, which is the smallest.
		r := s.manage(t, "POST", "/v1/tenants", record{"slug": "planless"}).want(http.StatusCreated).json()
		if r.text("plan") != "free" {
			t.Errorf("a tenant without a plan has %v", r["plan"])
		}
	})

	t.Run("credits: each route's cost, one balance, nothing unpaid", func(t *testing.T) {
		s.tenant(t, "costs", record{"credits": 9})
		a, b := s.key(t, "costs", nil), s.key(t, "costs", nil)
		s.call(t, "POST", "/api/v1/workflows/summarise", a.full).passed() // A request to run a workflow costs 5 credits.
		if got := s.balance(t, "costs"); got != 4 {
			t.Errorf("the balance is %d, want 4", got)
		}
		// A request that the balance can't pay spends nothing, however the client spells its path.
		for _, path := range []string{
			"/api/v1/workflows/summarise", "/api/v1/%77orkflows/x", "/api//v1/workflows/x", "/api/v1/x/../workflows/x",
			"/api/v1/workflows/x/", "/API/v1/workflows/x",
		} {
			r := s.call(t, "POST", path, b.full).rejected(http.StatusPaymentRequired)
			if p := r.problem("credits_exhausted"); p.text("detail") != "Credit balance is used up." || len(p.list("violated-policies")) != 1 {
				t.Errorf("the reason is %s", r.body)
			}
		}
		s.call(t, "GET", s.path, b.full).passed()
		s.call(t, "HEAD", "/api/v1/workflows/summarise", a.full).passed()
		// The product's web app spends credits from the same balance as the API keys.
		s.manage(t, "POST", "/v1/tenants/costs/credits", record{"spend": 3}).want(http.StatusPaymentRequired).problem("credits_exhausted")
		if r := s.manage(t, "POST", "/v1/tenants/costs/credits", record{"spend": 2, "reference": "job_1"}).want(http.StatusOK).json(); r["balance"] != 0.0 {
			t.Errorf("the web app's spending leaves %v", r)
		}
		s.call(t, "GET", s.path, a.full).rejected(http.StatusPaymentRequired)
		if r := s.manage(t, "POST", "/v1/tenants/costs/credits", record{"add": 1}).want(http.StatusOK).json(); r["balance"] != 1.0 {
			t.Errorf("adding gives %v", r)
		}
		if policy := s.call(t, "GET", s.path, a.full).passed().header.Get("RateLimit-Policy"); !strings.Contains(policy, `"credits"`) {
			t.Errorf("RateLimit-Policy %q", policy)
		}
		s.call(t, "GET", s.path, a.full).rejected(http.StatusPaymentRequired)
	})

	t.Run("credits: concurrent requests and changes", func(t *testing.T) {
		const credits = 200
		s.tenant(t, "race", record{"credits": credits})
		keys := []key{s.key(t, "race", nil), s.key(t, "race", nil), s.key(t, "race", nil)}
		var spent, paid, unpaid atomic.Int64
		var wg sync.WaitGroup
		for _, k := range keys {
			wg.Go(func() {
				for i := range 40 {
					method, cost := "GET", int64(1)
					if i%3 == 0 {
						method, cost = "POST", 5
					}
					switch a := s.call(t, method, "/api/v1/workflows/x", k.full); a.status {
					case http.StatusOK:
						spent.Add(cost)
						paid.Add(1)
					case http.StatusPaymentRequired:
						a.rejected(http.StatusPaymentRequired)
						unpaid.Add(1)
					default:
						t.Errorf("%d %s", a.status, a.body)
					}
				}
			})
		}
		wg.Go(func() {
			for range 20 {
				switch a := s.manage(t, "POST", "/v1/tenants/race/credits", record{"spend": 3}); a.status {
				case http.StatusOK:
					spent.Add(3)
				case http.StatusPaymentRequired:
				default:
					t.Errorf("%d %s", a.status, a.body)
				}
			}
		})
		wg.Wait()
		if left := credits - spent.Load(); left < 0 {
			t.Errorf("%d credits bought what costs %d", credits, spent.Load())
		} else if got := s.balance(t, "race"); got != left {
			t.Errorf("the balance is %d, want %d", got, left)
		}
		if paid.Load() == 0 || unpaid.Load() == 0 {
			t.Errorf("%d were paid, %d not", paid.Load(), unpaid.Load())
		}
		// The keys can spend the rest of the balance, and nothing beyond the balance.
		for left := s.balance(t, "race"); left > 0; left-- {
			s.call(t, "GET", s.path, keys[0].full).passed()
		}
		s.call(t, "GET", s.path, keys[1].full).rejected(http.StatusPaymentRequired)
		sum := int64(0)
		for _, e := range s.ledger(t, "race") {
			sum += int64(e["amount"].(float64))
		}
		if sum != 0 {
			t.Errorf("the ledger's movements add up to %d", sum)
		}
	})

	t.Run("a key's own limit", func(t *testing.T) {
		s.tenant(t, "own", record{"credits": 100})
		k, free := s.key(t, "own", record{"rate": "3/h"}), s.key(t, "own", nil)
		for i := range 3 {
			if left := s.call(t, "POST", "/api/v1/workflows/x", k.full).passed().number("X-RateLimit-Remaining"); left != int64(2-i) {
				t.Errorf("after %d requests %d remain", i+1, left)
			}
		}
		s.call(t, "POST", "/api/v1/workflows/x", k.full).rejected(http.StatusTooManyRequests).problem("rate_limited")
		if got := s.balance(t, "own"); got != 85 {
			t.Errorf("a rejected request was charged: the balance is %d", got)
		}
		s.call(t, "GET", s.path, free.full).passed()
		s.manage(t, "PATCH", "/v1/keys/"+k.id, record{"rate": nil}).want(http.StatusOK)
		s.call(t, "GET", s.path, k.full).passed()
	})

	t.Run("credits outlive the process", func(t *testing.T) {
		s.tenant(t, "durable", record{"credits": 50})
		k := s.key(t, "durable", nil)
		for range 10 {
			s.call(t, "GET", s.path, k.full).passed()
		}
		s.restart()
		if got := s.balance(t, "durable"); got != 40 {
			t.Errorf("after a clean stop the balance is %d, want 40", got)
		}
		for range 5 {
			s.call(t, "GET", s.path, k.full).passed()
		}
		s.kill()
		s.gateway.start()
		// A crash may give back credits that were spent in its last second, but never takes any credits.
		if got := s.balance(t, "durable"); got < 35 || got > 40 {
			t.Errorf("after a crash the balance is %d, want 35 to 40", got)
		}
	})

	t.Run("shown once", func(t *testing.T) {
		s.tenant(t, "once", record{"credits": 10})
		k := s.key(t, "once", nil)
		s.call(t, "GET", s.path, k.full).passed()
		s.shownOnce(t, k)
		s.call(t, "GET", s.path, k.full).passed()
	})
}

// other returns a character of base62 (0-9, A-Z, a-z) that is not c.
func other(c byte) string {
	if c == 'a' {
		return "b"
	}
	return "a"
}

// ledger returns all entries of a tenant's ledger, newest first.
func (s *site) ledger(t testing.TB, slug string) (all []record) {
	t.Helper()
	for cursor := ""; ; {
		path := "/v1/tenants/" + slug + "/credits?limit=100"
		if cursor != "" {
			path += "&cursor=" + cursor
		}
		r := s.read(t, path)
		all = append(all, r.records("data")...)
		if cursor = r.text("next_cursor"); cursor == "" {
			return all
		}
	}
}

// revokedUnderLoad revokes a key while requests with the key are running. The gateway must reject each
// request that begins after the revocation has returned.
func revokedUnderLoad(t *testing.T, s *site, k key) {
	t.Helper()
	var passed, rejected atomic.Int64
	var returned atomic.Bool
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for {
				late := returned.Load()
				a := s.call(t, "GET", s.path, k.full)
				switch {
				case a.status == http.StatusOK && late:
					t.Error("a request passed that began after the revocation had returned")
					return
				case a.status == http.StatusOK:
					passed.Add(1)
				case a.status == http.StatusUnauthorized:
					rejected.Add(1)
				default:
					t.Errorf("answered %d %s", a.status, a.body)
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	testkit.Eventually(t, "requests that pass", func() bool { return passed.Load() >= 20 || t.Failed() })
	s.post(t, k, "revoke", nil)
	returned.Store(true)
	testkit.Eventually(t, "requests that are rejected", func() bool { return rejected.Load() >= 50 || t.Failed() })
	close(stop)
	wg.Wait()
}
