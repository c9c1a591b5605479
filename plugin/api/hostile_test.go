package api_test

import (
	"strings"
	"testing"
)

func TestHostileBodies(t *testing.T) {
	w := newFixture(t)
	w.send("POST", "/v1/tenants", newTenant).want(201)
	const keys = "/v1/tenants/acme/keys"
	for name, c := range map[string]struct {
		path, body string
		status     int
		code       string
		pointer    string
	}{
		"empty":              {keys, "", 400, "invalid_json", ""},
		"blank":              {keys, " \n", 400, "invalid_json", ""},
		"cut":                {keys, `{"name":`, 400, "invalid_json", ""},
		"rubbish after":      {keys, `{"name":"n"} x`, 400, "invalid_json", ""},
		"second value":       {keys, `{"name":"n"}{"name":"m"}`, 400, "invalid_json", ""},
		"array":              {keys, `[{"name":"n"}]`, 400, "invalid_json", ""},
		"null":               {keys, `null`, 400, "invalid_json", ""},
		"number":             {keys, `5`, 400, "invalid_json", ""},
		"single quotes":      {keys, `{'name':'n'}`, 400, "invalid_json", ""},
		"comment":            {keys, `{"name":"n"/**/}`, 400, "invalid_json", ""},
		"trailing comma":     {keys, `{"name":"n",}`, 400, "invalid_json", ""},
		"NaN":                {keys, `{"credits_limit":NaN}`, 400, "invalid_json", ""},
		"BOM":                {keys, "\ufeff{}", 400, "invalid_json", ""},
		"not UTF-8":          {keys, "{\"name\":\"\xff\"}", 400, "invalid_json", ""},
		"doubled":            {keys, `{"name":"n","name":"m"}`, 400, "invalid_json", ""},
		"doubled by escape":  {keys, `{"name":"n","n\u0061me":"m"}`, 400, "invalid_json", ""},
		"doubled inside":     {keys, `{"name":"n","metadata":{"a":[{"b":1,"b":2}]}}`, 400, "invalid_json", ""},
		"deep":               {keys, `{"metadata":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}`, 400, "invalid_json", ""},
		"too large":          {keys, `{"name":"` + strings.Repeat("x", 1<<20) + `"}`, 413, "body_too_large", ""},
		"unknown":            {keys, `{"name":"n","nmae":1}`, 422, "unknown_field", "/nmae"},
		"unknown by case":    {keys, `{"Name":"n"}`, 422, "unknown_field", "/Name"},
		"unknown, escaped":   {keys, `{"name":"n","a/b~c":1}`, 422, "unknown_field", "/a~1b~0c"},
		"read-only":          {keys, `{"name":"n","id":"key_1"}`, 422, "unknown_field", "/id"},
		"prototype":          {keys, `{"name":"n","__proto__":{}}`, 422, "unknown_field", "/__proto__"},
		"name a number":      {keys, `{"name":5}`, 422, "invalid_field", "/name"},
		"name an object":     {keys, `{"name":{}}`, 422, "invalid_field", "/name"},
		"name null":          {keys, `{"name":null}`, 422, "invalid_field", "/name"},
		"name NUL":           {keys, `{"name":"a\u0000b"}`, 422, "invalid_field", "/name"},
		"name lone half":     {keys, `{"name":"\ud800"}`, 422, "invalid_field", "/name"},
		"scopes a string":    {keys, `{"name":"n","scopes":"free"}`, 422, "invalid_field", "/scopes"},
		"scopes of null":     {keys, `{"name":"n","scopes":[null]}`, 422, "invalid_field", "/scopes"},
		"scopes of numbers":  {keys, `{"name":"n","scopes":[1]}`, 422, "invalid_field", "/scopes"},
		"scope unknown":      {keys, `{"name":"n","scopes":["free","x"]}`, 422, "invalid_field", "/scopes/1"},
		"limit huge":         {keys, `{"name":"n","credits_limit":1e400}`, 422, "invalid_field", "/credits_limit"},
		"limit out of range": {keys, `{"name":"n","credits_limit":99999999999999999999999}`, 422, "invalid_field", "/credits_limit"},
		"limit broken":       {keys, `{"name":"n","credits_limit":1.5}`, 422, "invalid_field", "/credits_limit"},
		"limit a string":     {keys, `{"name":"n","credits_limit":"5"}`, 422, "invalid_field", "/credits_limit"},
		"expires a number":   {keys, `{"name":"n","expires_at":5}`, 422, "invalid_field", "/expires_at"},
		"expires a duration": {keys, `{"name":"n","expires_at":"90d"}`, 422, "invalid_field", "/expires_at"},
		"expires past":       {keys, `{"name":"n","expires_at":"2020-01-01T00:00:00Z"}`, 422, "invalid_field", "/expires_at"},
		"year 0":             {keys, `{"name":"n","expires_at":"0000-01-01T00:00:00Z"}`, 422, "invalid_field", "/expires_at"},
		"metadata a list":    {keys, `{"name":"n","metadata":[]}`, 422, "invalid_field", "/metadata"},
		"metadata large":     {keys, `{"name":"n","metadata":{"a":"` + strings.Repeat("x", 9000) + `"}}`, 422, "invalid_field", "/metadata"},
		"concurrency":        {keys, `{"name":"n","concurrency":-1}`, 422, "invalid_field", "/concurrency"},
		"concurrency broken": {keys, `{"name":"n","concurrency":1.5}`, 422, "invalid_field", "/concurrency"},
		"concurrency true":   {keys, `{"name":"n","concurrency":true}`, 422, "invalid_field", "/concurrency"},
		"concurrency_per":    {keys, `{"name":"n","concurrency":5,"concurrency_per":"tenant"}`, 422, "invalid_field", "/concurrency"},
		"per alone":          {keys, `{"name":"n","concurrency_per":"key"}`, 422, "invalid_field", "/concurrency_per"},
		"per of nothing":     {keys, `{"name":"n","concurrency":null,"concurrency_per":"key"}`, 422, "invalid_field", "/concurrency_per"},
		"per unknown":        {keys, `{"name":"n","concurrency":5,"concurrency_per":"planet"}`, 422, "invalid_field", "/concurrency_per"},
		"per twice":          {keys, `{"name":"n","concurrency":"5 per key","concurrency_per":"key"}`, 422, "invalid_field", "/concurrency_per"},
		"two concurrencies":  {"/v1/tenants", `{"slug":"b","concurrency":"5, 9 per tenant"}`, 422, "invalid_field", "/concurrency"},
		"rate a number":      {keys, `{"name":"n","rate":60}`, 422, "invalid_field", "/rate"},
		"active a string":    {"/v1/tenants", `{"slug":"b","active":"true"}`, 422, "invalid_field", "/active"},
		"slug missing":       {"/v1/tenants", `{}`, 422, "invalid_field", "/slug"},
		"slug a path":        {"/v1/tenants", `{"slug":"../b"}`, 422, "invalid_field", "/slug"},
		"plan unknown":       {"/v1/tenants", `{"slug":"b","plan":"gold"}`, 422, "plan_unknown", "/plan"},
		"nothing to move":    {"/v1/tenants/acme/credits", `{}`, 422, "invalid_field", "/add"},
		"add nothing":        {"/v1/tenants/acme/credits", `{"add":0}`, 422, "invalid_field", "/add"},
		"add too much":       {"/v1/tenants/acme/credits", `{"add":9007199254740991}`, 422, "invalid_field", "/add"},
		"spend a string":     {"/v1/tenants/acme/credits", `{"spend":"5"}`, 422, "invalid_field", "/spend"},
		"verify method":      {"/v1/verify", `{"key":"k","method":"G ET"}`, 422, "invalid_field", "/method"},
		"verify path":        {"/v1/verify", `{"key":"k","path":"x"}`, 422, "invalid_field", "/path"},
		"verify ip":          {"/v1/verify", `{"key":"k","ip":"localhost"}`, 422, "invalid_field", "/ip"},
		"verify cost":        {"/v1/explain", `{"key":"k","cost":-1}`, 422, "invalid_field", "/cost"},
		"verify key":         {"/v1/verify", `{"key":["k"]}`, 422, "invalid_field", "/key"},
	} {
		t.Run(name, func(t *testing.T) {
			a := w.send("POST", c.path, c.body)
			a.t = t
			a.wantProblem(c.status, c.code, c.pointer)
		})
	}
	// None of the rejected requests wrote an audit event.
	if list := w.send("GET", "/v1/audit", "").want(200); len(list["data"].([]any)) != 1 {
		t.Errorf("events after rejected requests: %v", list)
	}
}

// FuzzAPI sends arbitrary bodies to several paths. No response may be a server error, and every
// error must be a problem (RFC 9457).
func FuzzAPI(f *testing.F) {
	paths := []struct{ method, path string }{
		{"POST", "/v1/tenants"}, {"PUT", "/v1/tenants/new"}, {"PATCH", "/v1/tenants/acme"}, {"POST", "/v1/tenants/acme/credits"},
		{"POST", "/v1/tenants/acme/keys"}, {"PATCH", "/v1/keys/ID"}, {"POST", "/v1/keys/ID/rotate"}, {"POST", "/v1/keys/ID/disable"},
		{"POST", "/v1/keys/ID/enable"}, {"POST", "/v1/verify"}, {"POST", "/v1/explain"},
	}
	for i, body := range []string{
		`{"slug":"b","name":"B","plan":"pro","active":false,"credits":5,"rate":"5/m burst 2","quota":"5/day","concurrency":"5 per tenant","metadata":{"a":[1]}}`,
		`{"name":null,"plan":null,"rate":null}`, `{"active":true,"credits":0}`, `{"add":5,"reference":"r"}`,
		`{"name":"n","description":"d","scopes":["free"],"environment":"live","expires_at":"2099-01-01T00:00:00Z","allowed_ips":["10.0.0.0/8","::1"],"credits_limit":5}`,
		`{"scopes":null,"allowed_ips":[],"expires_at":null}`, `{"grace":"1d2h"}`, `{"wait":"2s"}`, `{}`, `{"key":"kg_live_x","method":"GET","path":"/a","cost":1,"ip":"1.2.3.4"}`, `[]`,
	} {
		f.Add(uint8(i), []byte(body))
	}
	w := newFixture(f)
	w.send("POST", "/v1/tenants", newTenant).want(201)
	id := w.send("POST", "/v1/tenants/acme/keys", keyBody).want(201)["id"].(string)
	f.Fuzz(func(t *testing.T, route uint8, body []byte) {
		p := paths[int(route)%len(paths)]
		w.t = t
		a := w.send(p.method, strings.Replace(p.path, "ID", id, 1), string(body))
		if a.status >= 500 {
			t.Fatalf("%s %s with %q answered %d %s", p.method, p.path, body, a.status, a.body)
		}
		m := a.want(a.status)
		if a.status >= 400 && (m["code"] == "" || a.header.Get("Content-Type") != "application/problem+json") {
			t.Fatalf("%q is rejected with %s", body, a.body)
		}
	})
}
