package api_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/api"
	"github.com/keygate-dev/keygate/plugin/leak"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/leaks"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

// newLeakFixture returns a fixture whose tenants a, b and c are on plans with on_leak revoke,
// disable and none.
func newLeakFixture(t *testing.T) *fixture {
	w := newFixture(t)
	pro := w.view.Keyspaces["default"].Plans["pro"]
	for slug, on := range map[string]string{"a": leaks.Revoke, "b": leaks.Disable, "c": ""} {
		p := *pro
		p.Name, p.OnLeak = "on-"+slug, on
		w.view.Keyspaces["default"].Plans[p.Name] = &p
		w.send("PUT", "/v1/tenants/"+slug+"?keyspace=default", `{"plan":"on-`+slug+`"}`).want(201)
	}
	return w
}

func (w *fixture) leakyKey(tenant string) (id, key string) {
	w.t.Helper()
	k := w.send("POST", "/v1/tenants/"+tenant+"/keys?keyspace=default", `{"name":"ci"}`).want(201)
	return k["id"].(string), k["key"].(string)
}

// leaks returns the audit events about leaks of a key, newest first.
func (w *fixture) leaks(id string) (list []map[string]any) {
	w.t.Helper()
	for _, e := range w.send("GET", "/v1/audit?keyspace=default&limit=100&key="+id, "").want(200)["data"].([]any) {
		if e := e.(map[string]any); e["action"] == "key.leaked" {
			list = append(list, e)
		}
	}
	return list
}

func (w *fixture) wantStatus(id, status string) {
	w.t.Helper()
	if k := w.send("GET", "/v1/keys/"+id+"?keyspace=default", "").want(200); k["status"] != status {
		w.t.Errorf("the key is %v, want %s", k["status"], status)
	}
}

func TestLeaks(t *testing.T) {
	w := newLeakFixture(t)
	for tenant, status := range map[string]string{"a": "revoked", "b": "disabled", "c": "active"} {
		id, key := w.leakyKey(tenant)
		body := fmt.Sprintf(`{"key":%q,"url":"https://example.com/?k=%s","source":"mail"}`, key, key)
		for range 2 {
			w.accepted(w.send("POST", "/v1/leaks", body))
			w.wantStatus(id, status)
		}
		events := w.leaks(id)
		if len(events) != 1 {
			t.Fatalf("%s: recorded %d times: %v", tenant, len(events), events)
		}
		text, _ := json.Marshal(events)
		if strings.Contains(string(text), key) || !strings.Contains(string(text), "https://example.com/?k=") || !strings.Contains(string(text), "mail") {
			t.Errorf("%s: recorded as %s", tenant, text)
		}
		// A key that is found at many URLs is recorded at most ten times.
		for i := range 15 {
			w.accepted(w.send("POST", "/v1/leaks", fmt.Sprintf(`{"key":%q,"url":"%d%s"}`, key, i, strings.Repeat("x", 5000))))
		}
		if n := len(w.leaks(id)); n != 10 {
			t.Errorf("%s: recorded %d times, want 10", tenant, n)
		}
	}
	w.send("POST", "/v1/leaks", `{}`).wantProblem(422, "invalid_field", "/key")
	w.send("POST", "/v1/leaks", `{"key":"x","token":"y"}`).wantProblem(422, "unknown_field", "/token")
	if r := w.send("GET", "/v1/audit/verify", "").want(200); r["intact"] != true {
		t.Errorf("the chain: %v", r)
	}
}

// The repeated report of a leak that is recorded writes nothing to the store.
func TestKnownLeakWritesNothing(t *testing.T) {
	w := newLeakFixture(t)
	for tenant := range map[string]bool{"a": true, "b": true, "c": true} {
		_, key := w.leakyKey(tenant)
		body := fmt.Sprintf(`{"key":%q,"url":"https://example.com/","source":"mail"}`, key)
		w.accepted(w.send("POST", "/v1/leaks", body))
		if err := w.store.Update(t.Context(), func(management.Tx) error {
			// SQLite has one writer, which is this transaction: a report that wrote something
			// would block forever.
			for range 3 {
				w.accepted(w.send("POST", "/v1/leaks", body))
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
}

// accepted checks that the response is an empty 202, the only response to a valid report.
func (w *fixture) accepted(a answer) {
	w.t.Helper()
	if a.status != 202 || a.body != "" {
		w.t.Errorf("answered %d %q", a.status, a.body)
	}
}

// The leak of a secret that a rotation has already invalidated is recorded, and the key stays
// active.
func TestLeakOfRotatedSecret(t *testing.T) {
	w := newLeakFixture(t)
	id, old := w.leakyKey("a")
	fresh := w.send("POST", "/v1/keys/"+id+"/rotate?keyspace=default", `{"grace":"0s"}`).want(200)["key"].(string)
	w.accepted(w.send("POST", "/v1/leaks", fmt.Sprintf(`{"key":%q}`, old)))
	w.wantStatus(id, "active")
	if events := w.leaks(id); len(events) != 1 || events[0]["after"].(map[string]any)["rotated"] != true {
		t.Errorf("recorded %v", events)
	}
	w.accepted(w.send("POST", "/v1/leaks", fmt.Sprintf(`{"key":%q,"url":"x"}`, fresh)))
	w.wantStatus(id, "revoked")
}

// Reports of unknown keys get the same response as others, and count as failures of the client's
// address.
func TestLeaksOfUnknownKeys(t *testing.T) {
	w := newLeakFixture(t)
	ks := w.view.Keyspaces["default"]
	policy, err := ratelimit.ParseRate("3/m burst 3")
	if err != nil {
		t.Fatal(err)
	}
	ks.Failures = policy
	unknown := func() string {
		key, err := ks.Grammar.Generate("")
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	for range 5 {
		w.accepted(w.send("POST", "/v1/leaks", fmt.Sprintf(`{"key":%q}`, unknown())))
	}
	w.accepted(w.send("POST", "/v1/leaks", `{"key":"not a key"}`))
	// Requests of httptest come from the address 192.0.2.1.
	r := w.send("POST", "/v1/verify?keyspace=default", fmt.Sprintf(`{"key":%q,"ip":"192.0.2.1"}`, unknown())).want(200)
	if r["reason"] != "too_many_failures" {
		t.Errorf("after the reports the address gets %v", r["reason"])
	}
	// An address with too many failures can still report a key that exists.
	id, key := w.leakyKey("a")
	w.accepted(w.send("POST", "/v1/leaks", fmt.Sprintf(`{"key":%q}`, key)))
	w.wantStatus(id, "revoked")
}

func TestGitHubLeaks(t *testing.T) {
	w := newLeakFixture(t)
	w.access = api.Access{} // The route must not authenticate the caller.
	w.send("POST", "/v1/leaks/github", `[]`).wantProblem(404, "not_found", "")
	w.access = api.Access{Actor: management.Actor{Name: "ada", Via: "api"}}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	list, err := json.Marshal(map[string]any{"public_keys": []any{map[string]any{
		"key_identifier": "k1", "key": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), "is_current": true}}})
	if err != nil {
		t.Fatal(err)
	}
	if w.gitHub, err = leak.ParseKeys(list); err != nil {
		t.Fatal(err)
	}
	signed := func(body string) answer {
		sum := sha256.Sum256([]byte(body))
		sig, err := ecdsa.SignASN1(rand.Reader, private, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		return w.send("POST", "/v1/leaks/github", body, leak.KeyIdentifier, "k1", leak.KeySignature, base64.StdEncoding.EncodeToString(sig))
	}
	id, key := w.leakyKey("a")
	unknown, err := w.view.Keyspaces["default"].Grammar.Generate("")
	if err != nil {
		t.Fatal(err)
	}
	report := fmt.Sprintf(`[{"token":%q,"type":"shop_key","url":"https://github.com/o/r/blob/1/a.go","source":"content"},
		{"token":%q,"type":"shop_key","url":"","source":"commit"},{"token":"nothing","type":"other","url":"","source":"npm"}]`, key, unknown)

	w.send("POST", "/v1/leaks/github", report).wantProblem(403, "invalid_signature", "")
	w.send("POST", "/v1/leaks/github", report, leak.KeyIdentifier, "k2", leak.KeySignature, "AAAA").wantProblem(403, "invalid_signature", "")
	w.wantStatus(id, "active")

	a := signed(report)
	if a.status != 200 || strings.Contains(a.body, key) {
		t.Fatalf("answered %d %s", a.status, a.body)
	}
	hash := func(s string) string { sum := sha256.Sum256([]byte(s)); return hex.EncodeToString(sum[:]) }
	var got []leak.Verdict
	if err := json.Unmarshal([]byte(a.body), &got); err != nil {
		t.Fatal(err)
	}
	want := []leak.Verdict{{TokenHash: hash(key), TokenType: "shop_key", Label: "true_positive"},
		{TokenHash: hash(unknown), TokenType: "shop_key", Label: "false_positive"}, {TokenHash: hash("nothing"), TokenType: "other", Label: "false_positive"}}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("answered %v, want %v", got, want)
	}
	w.wantStatus(id, "revoked")
	if events := w.leaks(id); len(events) != 1 || events[0]["actor"] != "GitHub secret scanning" {
		t.Errorf("recorded %v", events)
	}
	signed(`{"token":"`+key+`"}`).wantProblem(400, "invalid_json", "")
	if a := signed(`[]`); a.status != 200 || strings.TrimSpace(a.body) != "[]" {
		t.Errorf("an empty report is answered %d %q", a.status, a.body)
	}
}

// A report that has to wait too long behind many others is queued: its response is the same, and
// it takes effect later.
func TestLeakReportsDuringOverload(t *testing.T) {
	w := newLeakFixture(t)
	_, flooded := w.leakyKey("c")
	id, key := w.leakyKey("a")
	report := func(key, url string) {
		w.accepted(w.send("POST", "/v1/leaks", fmt.Sprintf(`{"key":%q,"url":%q}`, key, url)))
	}
	var flood sync.WaitGroup
	if err := w.store.Update(t.Context(), func(management.Tx) error {
		// SQLite's only writer is this transaction. Two reports wait for it, 64 of one client wait
		// for a turn, and further reports are queued and answered at once.
		queued := make(chan struct{}, 80)
		for i := range 80 {
			flood.Go(func() { report(flooded, fmt.Sprint(i)); queued <- struct{}{} })
		}
		for range 80 - 2 - 64 {
			<-queued
		}
		report(key, "x")
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	flood.Wait()
	testkit.Eventually(t, "the reported key is revoked", func() bool {
		return w.send("GET", "/v1/keys/"+id+"?keyspace=default", "").want(200)["status"] == "revoked"
	})
}

// A report that arrives while keys can't be looked up gets the same response. It takes effect when
// the gateway stops, at the latest.
func TestLeakWhileKeysCannotBeLookedUp(t *testing.T) {
	w := newLeakFixture(t)
	id, key := w.leakyKey("a")
	w.unavailable.Store(true)
	for range 2 {
		w.accepted(w.send("POST", "/v1/leaks", fmt.Sprintf(`{"key":%q}`, key)))
	}
	w.wantStatus(id, "active")
	w.unavailable.Store(false)
	w.reporter.Finish(t.Context())
	w.wantStatus(id, "revoked")
	if events := w.leaks(id); len(events) != 1 {
		t.Errorf("recorded %v", events)
	}
}
