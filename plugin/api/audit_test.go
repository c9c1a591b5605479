package api_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/keygate-dev/keygate/plugin/api"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/webhook"
)

// signWith replaces the fixture's handler by one whose manager signs checkpoints (heads) with a
// secret.
func (w *fixture) signWith(secret string) {
	w.t.Helper()
	vault, err := webhook.NewVault(secret)
	if err != nil {
		w.t.Fatal(err)
	}
	w.manager = management.New(management.Config{Store: w.store, Engine: w.gw, View: func() *gateway.View { return w.view },
		Signer: func() audit.Signer { return vault }})
	w.handler = api.New(w.manager, api.Options{Authenticate: func(*http.Request) (api.Access, error) { return w.access, nil }})
}

func TestAuditHead(t *testing.T) {
	w := newFixture(t)
	w.send("POST", "/v1/tenants", newTenant).want(201)
	w.send("POST", "/v1/tenants?keyspace=convoy", newTenant).want(201)
	if h := w.send("GET", "/v1/audit/head", "").want(200); h["signature"] != nil || h["public_key"] != nil || h["key_id"] != nil || h["seq"] != 2.0 || len(h["hash"].(string)) != 64 {
		t.Errorf("without a secret: %v", h)
	}
	w.signWith("a secret of enough bytes")
	h := w.send("GET", "/v1/audit/head?keyspace=convoy", "")
	if m := h.want(200); m["keyspace"] != "convoy" || m["seq"] != 2.0 || m["events"] != 1.0 {
		t.Errorf("of a keyspace: %s", h.body)
	}
	// A reader can check the signature with the form of the signed text that the manual documents.
	var head audit.Checkpoint
	if err := json.Unmarshal([]byte(h.body), &head); err != nil {
		t.Fatal(err)
	}
	form := ""
	for _, part := range []string{"keygate audit head 1", head.Store, "convoy", "2", "1", head.Hash, head.At.UTC().Format("2006-01-02T15:04:05.000000Z")} {
		form += string([]byte{0, 0, 0, 0, 0, 0, 0, byte(len(part))}) + part
	}
	if !ed25519.Verify(head.PublicKey, []byte(form), head.Signature) {
		t.Error("the signature is not over the text that the manual documents")
	}

	verify := func(heads string, more ...string) answer {
		return w.send("POST", "/v1/audit/verify", `{"heads":[`+heads+`]`+strings.Join(more, "")+`}`)
	}
	if r := verify(h.body + "," + h.body).want(200); r["intact"] != true || r["heads"] != 2.0 || r["signed"] != 2.0 {
		t.Errorf("report %v", r)
	}
	w.signWith("another secret of enough bytes")
	if r := verify(h.body).want(200); r["intact"] != false || r["signed"] != nil {
		t.Errorf("under another secret: %v", r)
	}
	if r := verify(h.body, `,"public_keys":["`, base64.StdEncoding.EncodeToString(head.PublicKey), `"]`).want(200); r["intact"] != true || r["signed"] != 1.0 {
		t.Errorf("with the former key: %v", r)
	}
	for _, tt := range []struct{ body, code, pointer string }{
		{`{}`, "invalid_field", "/heads"}, {`{"heads":[]}`, "invalid_field", "/heads"}, {`{"heads":null}`, "invalid_field", "/heads"},
		{`{"heads":{}}`, "invalid_field", "/heads"}, {`{"heads":[null]}`, "invalid_field", "/heads"}, {`{"heads":[{}]}`, "invalid_field", "/heads"},
		{`{"heads":[{"seq":-1,"store":"x","at":"2026-01-01T00:00:00Z"}]}`, "invalid_field", "/heads"},
		{`{"heads":[{"seq":1e99,"store":"x"}]}`, "invalid_field", "/heads"}, {`{"heads":[{"sig":1}]}`, "invalid_field", "/heads"},
		{`{"heads":[` + h.body + `],"public_keys":["x"]}`, "invalid_field", "/public_keys"}, {`{"heads":[` + h.body + `],"public_keys":[""]}`, "invalid_field", "/public_keys"},
		{`{"heads":[` + strings.Repeat(`{"store":"x","seq":1,"at":"2026-01-01T00:00:00Z"},`, audit.MaxCheckpoints) + h.body + `]}`, "invalid_field", "/heads"},
		{`{"heads":[` + h.body + `],"x":1}`, "unknown_field", "/x"},
	} {
		w.send("POST", "/v1/audit/verify", tt.body).wantProblem(422, tt.code, tt.pointer)
	}
	// A forged head makes the report say that the chain is not intact, and causes no error.
	if r := verify(`{"store":"x","keyspace":"nowhere","seq":9223372036854775807,"events":-5,"hash":"zz","at":"0001-01-02T00:00:00Z","public_key":"AA==","signature":"AA=="}`).want(200); r["intact"] != false {
		t.Errorf("report %v", r)
	}

	w.access.Keyspace = "convoy"
	if m := w.send("GET", "/v1/audit/head", "").want(200); m["keyspace"] != "convoy" {
		t.Errorf("a caller with one keyspace gets the head of %v", m["keyspace"])
	}
	w.send("POST", "/v1/audit/verify", `{"heads":[`+h.body+`]}`).wantProblem(404, "not_found", "")
	w.access.Actor.Tenant = "acme"
	w.send("GET", "/v1/audit/head", "").wantProblem(403, "insufficient_scope", "")
	w.send("POST", "/v1/audit/verify", `{"heads":[`+h.body+`]}`).wantProblem(404, "not_found", "")
	w.access.Allows = func(scope string) bool { return scope != "audit:read" }
	w.send("GET", "/v1/audit/head", "").wantProblem(403, "insufficient_scope", "")
}

// A caller that may see one tenant is not shown the sequence numbers of events, which count the
// events of all tenants.
func TestTenantAuditHasNoSequence(t *testing.T) {
	w := newFixture(t)
	w.send("POST", "/v1/tenants", newTenant).want(201)
	if a := w.send("GET", "/v1/audit", ""); !strings.Contains(a.body, `"seq":1`) {
		t.Errorf("an operator sees %s", a.body)
	}
	w.access.Actor.Tenant = "acme"
	if a := w.send("GET", "/v1/audit", ""); strings.Contains(a.body, `"seq"`) || len(a.want(200)["data"].([]any)) != 1 {
		t.Errorf("a tenant sees %s", a.body)
	}
}
