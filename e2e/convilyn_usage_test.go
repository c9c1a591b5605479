package e2e

import (
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/keygate-dev/keygate/internal/testkit"
)

// TestConvilynUsageAndWebhooks checks the features that Convilyn's page announces: usage, webhooks and
// logs.
func TestConvilynUsageAndWebhooks(t *testing.T) {
	t.Parallel()
	shippedText, err := os.ReadFile(shipped(t, "configs/convilyn.Caddyfile"))
	if err != nil {
		t.Fatal(err)
	}
	// The test changes the shipped configuration so that the gateway may deliver webhooks to the local machine.
	text := strings.Replace(string(shippedText), "prefix ck_ live", "prefix ck_ live\n\t\t\twebhooks {\n\t\t\t\tallow_private 127.0.0.0/8\n\t\t\t}", 1)
	s := &site{gateway: start(t, written(t, text), newUpstream(t), "KEYGATE_SECRET=a secret of enough bytes"), product: convilyn}
	s.tenant(t, "acme", record{"credits": 12})
	k, other := s.key(t, "acme", nil), s.key(t, "acme", nil)

	s.call(t, "GET", s.path, k.full).passed()
	s.call(t, "POST", "/api/v1/workflows/run?token="+k.full, k.full).passed() // A request to run a workflow costs 5 credits.
	s.call(t, "POST", "/api/v1/workflows/run", other.full).passed()
	s.call(t, "POST", "/api/v1/workflows/run", k.full).rejected(http.StatusPaymentRequired).problem("credits_exhausted")

	t.Run("usage: requests and credits per key and day", func(t *testing.T) {
		path := "/v1/keys/" + k.id + "/usage?step=day"
		testkit.Eventually(t, "the counts", func() bool {
			days := s.read(t, path).records("data")
			return len(days) > 0 && days[len(days)-1]["requests"] == 3.0
		})
		r := s.read(t, path)
		day := r.records("data")[0]
		refused, _ := day["refused"].(map[string]any)
		if day["allowed"] != 2.0 || day["credits"] != 6.0 || refused["credits_exhausted"] != 1.0 || !strings.HasSuffix(day.text("from"), "T00:00:00Z") || r.text("complete_until") == "" {
			t.Errorf("the day is %v", day)
		}
		byKey := map[string]float64{}
		for _, line := range s.read(t, "/v1/usage?group_by=key&step=day").records("data") {
			byKey[line.text("key")] = line["credits"].(float64)
		}
		if byKey[k.id] != 6 || byKey[other.id] != 5 {
			t.Errorf("credits by key: %v", byKey)
		}
		out := s.keygate(t, "usage", "--key", k.id, "--step", "day").exits(0).out
		if !strings.Contains(out, "CREDITS") || !strings.Contains(out, "credits_exhausted 1") {
			t.Errorf("the command prints\n%s", out)
		}
	})

	t.Run("logs: recent requests and errors, never the key", func(t *testing.T) {
		a := s.manage(t, "GET", "/v1/keys/"+k.id+"/requests", nil).want(http.StatusOK)
		list := a.json().records("data")
		if len(list) != 3 || list[0]["status"] != 402.0 || list[0].text("reason") != "credits_exhausted" || list[1]["status"] != 200.0 ||
			list[1].text("path") != "/api/v1/workflows/run" || list[2].text("method") != "GET" {
			t.Errorf("the last requests are %v", list)
		}
		out := s.keygate(t, "requests", k.id).exits(0).out
		if !strings.Contains(out, "402") || !strings.Contains(out, "credits_exhausted") {
			t.Errorf("the command prints\n%s", out)
		}
		if strings.Contains(a.body+out, k.full[12:24]) {
			t.Error("the key is among its requests")
		}
	})

	t.Run("webhooks: events about jobs, keys and limits", func(t *testing.T) {
		r := newReceiver(t)
		hook := s.manage(t, "POST", "/v1/webhooks", record{"url": r.URL, "tenant": "acme"}).want(http.StatusCreated).json()
		s.keep(hook.text("secret"))
		r.set(func() { r.secret, r.down = hook.text("secret"), true })
		if sent := s.manage(t, "POST", "/v1/tenants/acme/events", record{"type": "job.finished", "data": record{"job": "j1"}}).want(http.StatusAccepted).json(); sent["deliveries"] != 1.0 {
			t.Errorf("the event was accepted as %v", sent)
		}
		testkit.Eventually(t, "an attempt", func() bool { r.mu.Lock(); defer r.mu.Unlock(); return r.attempts > 0 })
		r.set(func() { r.down = false }) // After the receiver is up again, the gateway delivers the event again.
		s.post(t, other, "revoke", nil)
		s.manage(t, "POST", "/v1/tenants/acme/credits", record{"add": 10}).want(http.StatusOK)
		fresh := s.key(t, "acme", nil) // A fresh key is needed, because the event limit.reached was already sent for the key k in this hour.
		s.call(t, "POST", "/api/v1/workflows/run", fresh.full).passed()
		s.call(t, "POST", "/api/v1/workflows/run", fresh.full).passed()
		s.call(t, "POST", "/api/v1/workflows/run", fresh.full).rejected(http.StatusPaymentRequired)
		want := []string{"credits.threshold", "job.finished", "key.revoked", "limit.reached"}
		testkit.Eventually(t, "all events", func() bool {
			got := r.types()
			return !slices.ContainsFunc(want, func(e string) bool { return got[e] == 0 })
		})
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.wrong) > 0 {
			t.Errorf("deliveries with a wrong signature: %q", r.wrong)
		}
	})
}
