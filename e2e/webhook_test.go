package e2e

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/keygate-dev/keygate/internal/testkit"
)

const webhookSite = `
{
	admin {$KEYGATE_ADMIN}
	keygate {
		store sqlite {$KEYGATE_DB}
		%s
		webhooks {
			allow_private 127.0.0.0/8
		}
	}
}
{$KEYGATE_LISTEN} {
	keygate
	reverse_proxy {$KEYGATE_UPSTREAM}
}
`

// receiver is an endpoint that receives webhooks.
type receiver struct {
	*httptest.Server
	mu sync.Mutex
	// down makes the endpoint answer 503.
	down     bool
	attempts int
	received map[string]string // received maps a webhook-id to the type of the event.
	secret   string
	wrong    []string
}

func newReceiver(t testing.TB) *receiver {
	r := &receiver{received: map[string]string{}}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body, _ := io.ReadAll(q.Body)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.attempts++
	if r.down {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	id := q.Header.Get("webhook-id")
	key, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(r.secret, "whsec_"))
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.%s", id, q.Header.Get("webhook-timestamp"), body)
	if q.Header.Get("webhook-signature") != "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)) {
		r.wrong = append(r.wrong, string(body))
	}
	var e struct {
		Type string `json:"type"`
	}
	if err := json.Unmarshal(body, &e); err != nil {
		r.wrong = append(r.wrong, string(body))
	}
	r.received[id] = e.Type
}

func (r *receiver) set(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

// types returns the number of received events by type. An event that was delivered twice counts
// once.
func (r *receiver) types() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string]int{}
	for _, t := range r.received {
		out[t]++
	}
	return out
}

func TestWebhooksOutliveTheGateway(t *testing.T) {
	up := newUpstream(t)
	g := start(t, written(t, fmt.Sprintf(webhookSite, "secret {env.KEYGATE_SECRET}")), up, "KEYGATE_SECRET=a secret of enough bytes")
	r := newReceiver(t)
	g.api(t, "POST", "/v1/tenants", record{"slug": "acme"}).want(201)
	hook := g.api(t, "POST", "/v1/webhooks", record{"url": r.URL, "events": []string{"key.created", "key.revoked", "job.finished"}, "tenant": "acme"}).want(201).json()
	secret := hook["secret"].(string)
	g.keep(secret)
	r.set(func() { r.secret = secret })

	k := g.api(t, "POST", "/v1/tenants/acme/keys", record{"name": "ci"}).want(201).json()
	g.keep(k["key"].(string))
	testkit.Eventually(t, "key.created", func() bool { return r.types()["key.created"] == 1 })

	// The endpoint is down, and the gateway is killed right after it has accepted the events.
	r.set(func() { r.down, r.attempts = true, 0 })
	g.api(t, "POST", "/v1/tenants/acme/events", record{"type": "job.finished", "data": record{"job": "j1"}}).want(202)
	testkit.Eventually(t, "an attempt", func() bool { r.mu.Lock(); defer r.mu.Unlock(); return r.attempts > 0 })
	g.api(t, "POST", "/v1/keys/"+k["id"].(string)+"/revoke", nil).want(200)
	g.kill()
	r.set(func() { r.down = false })
	g.start()
	testkit.Eventually(t, "the pending events are delivered", func() bool { got := r.types(); return got["job.finished"] == 1 && got["key.revoked"] == 1 })
	if got := r.types(); got["key.created"] != 1 || len(got) != 3 {
		t.Errorf("received %v", got)
	}
	r.mu.Lock()
	for _, body := range r.wrong {
		t.Errorf("a delivery with a wrong signature: %s", body)
	}
	r.mu.Unlock()
	if strings.Contains(string(g.stored()), strings.TrimPrefix(secret, "whsec_")) {
		t.Error("the webhook's secret is in the database")
	}
	deliveries := g.api(t, "GET", "/v1/webhooks/"+hook["id"].(string)+"/deliveries", nil).want(200)
	if strings.Contains(string(deliveries.body), secret) || strings.Contains(string(deliveries.body), k["key"].(string)) {
		t.Errorf("a secret is in %s", deliveries.body)
	}
}

func TestWebhooksWithoutASecret(t *testing.T) {
	g := start(t, written(t, fmt.Sprintf(webhookSite, "")), newUpstream(t))
	a := g.api(t, "POST", "/v1/webhooks", record{"url": "https://example.com/"})
	a.want(422)
	if body := string(a.body); !strings.Contains(body, "webhooks_unavailable") || !strings.Contains(body, "secret {env.KEYGATE_SECRET}") {
		t.Errorf("answered %s", body)
	}
	// An event that no webhook receives is no error.
	g.api(t, "POST", "/v1/tenants", record{"slug": "acme"}).want(201)
	g.api(t, "POST", "/v1/tenants/acme/events", record{"type": "job.finished"}).want(202)

	short := prepare(t, written(t, fmt.Sprintf(webhookSite, "secret short")), nil)
	short.command(t, "", "validate", "--config", short.config, "--adapter", "caddyfile").exits(1)
}

// A webhook can't have a URL of the gateway itself, whatever name the URL has, even if
// allow_private allows the address.
func TestWebhooksDoNotReachTheGatewayItself(t *testing.T) {
	t.Parallel()
	text := fmt.Sprintf(webhookSite, "secret {env.KEYGATE_SECRET}")
	text = strings.Replace(text, "allow_private 127.0.0.0/8", "allow_private 127.0.0.0/8 ::1", 1)
	g := start(t, written(t, text), newUpstream(t), "KEYGATE_SECRET=a secret of enough bytes")
	g.api(t, "POST", "/v1/tenants", record{"slug": "acme"}).want(201)
	for _, own := range []string{g.adminAddr, g.host()} {
		_, port, err := net.SplitHostPort(own)
		if err != nil {
			t.Fatal(err)
		}
		for _, host := range []string{"127.0.0.1", "127.0.0.2", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"} {
			a := g.api(t, "POST", "/v1/webhooks", record{"url": "http://" + host + ":" + port + "/stop", "tenant": "acme"})
			a.want(422)
			if !strings.Contains(string(a.body), "this gateway itself") {
				t.Errorf("%s:%s is rejected with %s", host, port, a.body)
			}
		}
	}

	// No process listened on this port when the webhook was created.
	port := freePort(t)
	hook := g.api(t, "POST", "/v1/webhooks", record{"url": "http://127.0.0.1:" + port + "/", "tenant": "acme"}).want(201).json().text("id")
	g.reload(t, text+"http://127.0.0.1:"+port+" {\n\trespond 200\n}\n")
	g.api(t, "POST", "/v1/tenants/acme/events", record{"type": "job.finished"}).want(202)
	testkit.Eventually(t, "the delivery to be rejected", func() bool {
		list := g.api(t, "GET", "/v1/webhooks/"+hook+"/deliveries", nil).want(200).json().records("data")
		return len(list) == 1 && strings.Contains(list[0].text("error"), "this gateway itself listens")
	})
	if !strings.Contains(g.log(), "a webhook's address is not allowed") {
		t.Error("the log does not name the webhook")
	}
}
