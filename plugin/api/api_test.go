package api_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/keygate-dev/keygate/plugin/api"
	"github.com/keygate-dev/keygate/plugin/management"
)

const (
	newTenant = `{"slug":"acme","name":"Acme","plan":"pro","credits":5}`
	keyBody   = `{"name":"ci"}`
)

func TestKeyLifecycle(t *testing.T) {
	w := newFixture(t)
	made := w.send("POST", "/v1/tenants?keyspace=default", newTenant)
	tenant := made.want(http.StatusCreated)
	if tenant["slug"] != "acme" || tenant["credits"] != 5.0 || made.header.Get("ETag") != `"1"` || made.header.Get("Cache-Control") != "no-store" {
		t.Errorf("tenant %v, header %v", tenant, made.header)
	}
	k := w.send("POST", "/v1/tenants/acme/keys", keyBody).want(http.StatusCreated)
	full, id := k["key"].(string), k["id"].(string)
	if k["curl"] != "curl -H 'Authorization: Bearer "+full+"' https://api.example.com/" {
		t.Errorf("curl %q", k["curl"])
	}
	verify := func(want string) {
		t.Helper()
		r := w.send("POST", "/v1/verify", `{"key":"`+full+`","method":"GET","path":"/","ip":"::ffff:192.0.2.7","cost":null}`).want(200)
		if r["reason"] != want {
			t.Errorf("verified %v, want %s", r, want)
		}
	}
	verify("allowed")
	read := w.send("GET", "/v1/keys/"+id, "")
	if m := read.want(200); m["key"] != nil || strings.Contains(read.body, full) {
		t.Errorf("the full key is in %s", read.body)
	}
	w.send("HEAD", "/v1/keys/"+id, "").want(200)
	tag := read.header.Get("ETag")
	w.send("PATCH", "/v1/keys/"+id, `{"name":"b"}`, "If-Match", `"99", "x"`).wantProblem(412, "precondition_failed", "")
	w.send("PATCH", "/v1/keys/"+id, `{"name":"b"}`, "If-Match", "W/"+tag).wantProblem(412, "precondition_failed", "")
	w.send("PATCH", "/v1/keys/"+id, `{"name":"b"}`, "If-Match", `"99", `+tag).want(200)
	w.send("PATCH", "/v1/keys/"+id, `{"name":"c"}`, "If-Match", "*").want(200)

	w.send("POST", "/v1/keys/"+id+"/disable", `{"wait":"2s"}`).want(200)
	verify("disabled_key")
	if r := w.send("POST", "/v1/keys/"+id+"/enable", "").want(200); r["durable"] != true || len(r["confirmed"].([]any)) != 1 || len(r["pending"].([]any)) != 0 {
		t.Errorf("receipt %v", r)
	}
	verify("allowed")
	rotated := w.send("POST", "/v1/keys/"+id+"/rotate", `{"grace":"24h"}`).want(200)
	verify("allowed")
	full = rotated["key"].(string)
	verify("allowed")
	w.send("POST", "/v1/keys/"+id+"/rotate", "").want(200)
	full2 := full
	full = rotated["key"].(string)
	if full2 != full {
		t.Error("the key of the first rotation changed")
	}
	w.send("POST", "/v1/keys/"+id+"/revoke", "{}").want(200)
	w.send("POST", "/v1/keys/"+id+"/enable", "{}").wantProblem(409, "key_revoked", "")
	if list := w.send("GET", "/v1/keys?tenant=acme&status=revoked&prefix=kg_", "").want(200); len(list["data"].([]any)) != 1 || list["next_cursor"] != nil {
		t.Errorf("list %v", list)
	}
	if list := w.send("GET", "/v1/audit?key="+id+"&limit=2", "").want(200); len(list["data"].([]any)) != 2 || list["next_cursor"] == nil {
		t.Errorf("audit %v", list)
	}
	if r := w.send("GET", "/v1/audit/verify", "").want(200); r["intact"] != true {
		t.Errorf("chain %v", r)
	}
	w.send("DELETE", "/v1/keys/"+id, "").want(http.StatusNoContent)
	verify("invalid_key")
	w.send("DELETE", "/v1/keys/"+id, "").wantProblem(404, "not_found", "")
}

func TestTenantsAndCredits(t *testing.T) {
	w := newFixture(t)
	w.send("PUT", "/v1/tenants/acme", "").want(http.StatusCreated)
	for body, want := range map[string][2]any{
		`{"concurrency":"7 per tenant"}`:                {7.0, "tenant"},
		`{"concurrency":7,"concurrency_per":"address"}`: {7.0, "address"},
		`{"concurrency":"7"}`:                           {7.0, nil},
		`{"concurrency":7,"concurrency_per":null}`:      {7.0, nil},
		`{"concurrency":null,"concurrency_per":null}`:   {nil, nil},
	} {
		if r := w.send("PATCH", "/v1/tenants/acme", body).want(200); r["concurrency"] != want[0] || r["concurrency_per"] != want[1] {
			t.Errorf("%s: %v %v", body, r["concurrency"], r["concurrency_per"])
		}
	}
	w.send("PUT", "/v1/tenants/ACME", `{"slug":"Acme","rate":"5/m","concurrency":3}`).want(200)
	if r := w.send("PATCH", "/v1/tenants/acme", `{"rate":null,"metadata":{"a":1}}`).want(200); r["rate"] != nil || r["concurrency"] != 3.0 {
		t.Errorf("patched %v", r)
	}
	w.send("PATCH", "/v1/tenants/acme", `{"slug":"b"}`).wantProblem(422, "invalid_field", "/slug")
	if r := w.send("POST", "/v1/tenants/acme/credits", `{"add":500}`).want(200); r["balance"] != 500.0 {
		t.Errorf("balance %v", r)
	}
	w.send("POST", "/v1/tenants/acme/credits", `{"spend":5,"reference":"job_1"}`).want(200)
	w.send("POST", "/v1/tenants/acme/credits", `{"spend":5000}`).wantProblem(402, "credits_exhausted", "")
	w.send("POST", "/v1/tenants/acme/credits", `{"spend":5,"add":5}`).wantProblem(422, "invalid_field", "/add")
	if r := w.send("GET", "/v1/tenants/acme/credits?limit=1", "").want(200); r["balance"] != 495.0 || len(r["data"].([]any)) != 1 || r["next_cursor"] == nil {
		t.Errorf("ledger %v", r)
	}
	w.send("POST", "/v1/tenants/acme/keys", keyBody).want(201)
	w.send("DELETE", "/v1/tenants/acme", "").wantProblem(409, "tenant_has_keys", "")
	w.send("DELETE", "/v1/tenants/acme?force=yes", "").wantProblem(422, "invalid_field", "force")
	w.send("DELETE", "/v1/tenants/acme?force=true", "").want(204)
	w.send("POST", "/v1/tenants", `{"slug":"acme"}`).wantProblem(409, "slug_taken", "")
}

func TestKeyspaces(t *testing.T) {
	w := newFixture(t)
	w.send("POST", "/v1/tenants?keyspace=convoy", newTenant).want(201)
	w.send("GET", "/v1/tenants/acme", "").wantProblem(404, "not_found", "")
	k := w.send("POST", "/v1/tenants/acme/keys?keyspace=convoy", keyBody).want(201)
	if curl := k["curl"].(string); !strings.HasPrefix(curl, "curl -H 'X-Api-Key: convoy_sk_") {
		t.Errorf("curl %q", curl)
	}
	w.send("GET", "/v1/keys/"+k["id"].(string), "").wantProblem(404, "not_found", "")
	w.send("GET", "/v1/keys?keyspace=nowhere", "").wantProblem(404, "not_found", "")
	if list := w.send("GET", "/v1/audit", "").want(200); len(list["data"].([]any)) != 0 {
		t.Errorf("events of another keyspace: %v", list)
	}
	if list := w.send("GET", "/v1/plans", "").want(200)["data"].([]any); len(list) != 2 || list[0].(map[string]any)["max_keys"] != 2.0 {
		t.Errorf("plans %v", list)
	}
	w.access.Keyspace = "convoy"
	w.send("GET", "/v1/tenants/acme", "").want(200)
	w.send("GET", "/v1/tenants/acme?keyspace=default", "").wantProblem(404, "not_found", "")
	w.send("GET", "/v1/audit/verify", "").wantProblem(404, "not_found", "")
}

func TestPathsAndMethods(t *testing.T) {
	w := newFixture(t)
	for _, p := range []string{"/", "/v1", "/v1/", "/v1/nothing", "/v1//keys", "/v1/keys/", "/v1/tenants/a%2fb/keys/x", "/v2/keys", "/v1/../v1/keys"} {
		w.send("GET", p, "").wantProblem(404, "not_found", "")
	}
	for _, p := range []string{"/v1/tenants/a%2fb", "/v1/tenants/%00", "/v1/tenants/%2e%2e", "/v1/keys/key_%ff", "/v1/keys/" + strings.Repeat("a", 5000)} {
		if a := w.send("GET", p, ""); a.status != 404 {
			t.Errorf("%s answered %d", p, a.status)
		}
	}
	a := w.send("DELETE", "/v1/keys", "")
	a.wantProblem(405, "method_not_allowed", "")
	if got := a.header.Get("Allow"); got != "GET, HEAD" {
		t.Errorf("Allow %q", got)
	}
	if a := w.send("OPTIONS", "/v1/keys", ""); a.status != 204 || a.header.Get("Allow") != "GET, HEAD, OPTIONS" {
		t.Errorf("OPTIONS answered %d %v", a.status, a.header)
	}
	w.send("OPTIONS", "/v1/nothing", "").wantProblem(404, "not_found", "")
	w.send("BREW", "/v1/keys", "").wantProblem(405, "method_not_allowed", "")
	for q, name := range map[string]string{
		"tennant=acme": "tennant", "limit=2&limit=3": "limit", "limit=0": "limit", "limit=x": "limit", "limit=101": "limit",
		"limit=99999999999999999999": "limit", "cursor=AAAA": "cursor", "status=gone": "status", "a;b": ";",
	} {
		code := "invalid_field"
		if name == "tennant" || name == ";" || strings.Contains(q, "&") {
			code = "unknown_field"
		}
		w.send("GET", "/v1/keys?"+q, "").wantProblem(422, code, name)
	}
}

func TestAccess(t *testing.T) {
	w := newFixture(t)
	w.send("POST", "/v1/tenants", newTenant).want(201)
	w.access.Allows = func(scope string) bool { return scope == "tenants:read" }
	w.send("GET", "/v1/tenants/acme", "").want(200)
	w.send("PATCH", "/v1/tenants/acme", `{"name":"x"}`).wantProblem(403, management.CodeInsufficientScope, "")
	w.send("GET", "/v1/keys", "").wantProblem(403, management.CodeInsufficientScope, "")
	w.access.Allows, w.access.Actor.Tenant = nil, "b"
	w.send("GET", "/v1/tenants/acme", "").wantProblem(404, "not_found", "")
}

func TestStoreUnavailable(t *testing.T) {
	w := newFixture(t)
	w.send("POST", "/v1/tenants", newTenant).want(201)
	if err := w.store.Close(); err != nil {
		t.Fatal(err)
	}
	for _, r := range [][3]string{
		{"GET", "/v1/tenants/acme", ""}, {"GET", "/v1/keys", ""}, {"POST", "/v1/tenants", `{"slug":"b"}`}, {"GET", "/v1/audit", ""},
		{"POST", "/v1/tenants/acme/credits", `{"add":1}`},
	} {
		a := w.send(r[0], r[1], r[2])
		a.wantProblem(503, "store_unavailable", "")
		if a.header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
	}
}

func TestRequestedActor(t *testing.T) {
	name := "Åse 100%"
	r, _ := http.NewRequest("GET", "/", nil)
	r.Header.Set(api.ActorHeader, api.EncodeActor(name))
	r.Header.Set(api.ActorIPHeader, "::ffff:192.0.2.1")
	if got, ip, err := api.RequestedActor(r); got != name || ip != "192.0.2.1" || err != nil {
		t.Errorf("named %q %q %v", got, ip, err)
	}
	for header, value := range map[string]string{api.ActorHeader: "a%00", api.ActorIPHeader: "here"} {
		r, _ := http.NewRequest("GET", "/", nil)
		r.Header.Set(header, value)
		if _, _, err := api.RequestedActor(r); err == nil {
			t.Errorf("%s: %s is accepted", header, value)
		}
	}
}
