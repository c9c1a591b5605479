package apitest

import (
	"net/http"
	"strings"
	"testing"
)

const document = `{"openapi": "3.1.1", "paths": {
	"/v1/a/{id}": {"get": {"responses": {
		"200": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/A"}}}},
		"404": {"content": {"application/problem+json": {"schema": {"allOf": [{"$ref": "#/components/schemas/P"}, {"properties": {"code": {"enum": ["not_found"]}}}]}}}},
		"204": {}
	}}},
	"/v1/a/all": {"get": {"responses": {"204": {}}}}
}, "components": {"schemas": {
	"A": {"type": "object", "required": ["n", "at"], "properties": {
		"n": {"type": "integer", "minimum": 1, "maximum": 5}, "at": {"type": ["string", "null"], "format": "date-time"},
		"list": {"type": "array", "items": {"type": "string", "maxLength": 2}}, "free": {"type": "object"},
		"map": {"type": "object", "additionalProperties": {"type": "string"}},
		"either": {"anyOf": [{"$ref": "#/components/schemas/P"}, {"type": "null"}]}
	}},
	"P": {"type": "object", "required": ["code"], "properties": {"code": {"type": "string"}}}
}}}`

func TestCheck(t *testing.T) {
	d, err := Parse([]byte(document))
	if err != nil {
		t.Fatal(err)
	}
	const js, problem = "application/json", "application/problem+json"
	for _, c := range []struct {
		status            int
		contentType, body string
		wrong             string // wrong is a part of the expected error; "" for no error.
	}{
		{200, js, `{"n":1,"at":null}`, ""},
		{200, js + "; charset=utf-8", `{"n":5,"at":"2026-01-02T03:04:05.5Z","list":["ab"],"free":{"x":1},"map":{"a":"b"},"either":null}`, ""},
		{200, js, `{"n":1}`, "/at is missing"},
		{200, js, `{"n":1,"at":null,"x":1}`, "/x is not described"},
		{200, js, `{"n":1.5,"at":null}`, "is not integer"},
		{200, js, `{"n":"1","at":null}`, "is not integer"},
		{200, js, `{"n":0,"at":null}`, "below"},
		{200, js, `{"n":6,"at":null}`, "above"},
		{200, js, `{"n":1,"at":"yesterday"}`, "not a time"},
		{200, js, `{"n":1,"at":"2026-01-02T03:04:05+01:00"}`, "not a time"},
		{200, js, `{"n":1,"at":null,"list":null}`, "is not array"},
		{200, js, `{"n":1,"at":null,"list":["abc"]}`, "longer"},
		{200, js, `{"n":1,"at":null,"map":{"a":1}}`, "is not string"},
		{200, js, `{"n":1,"at":null,"either":{}}`, "is none of"},
		{200, js, `{`, "unexpected end"},
		{200, "text/plain", `{"n":1,"at":null}`, "which is not described"},
		{201, js, `{"n":1,"at":null}`, "a status that is not described"},
		{204, "", "", ""},
		{204, js, "{}", "a body that is not described"},
		{404, problem, `{"code":"not_found"}`, ""},
		{404, problem, `{"code":"gone"}`, "is none of"},
	} {
		err := d.Check("GET", "/v1/a/5", c.status, http.Header{"Content-Type": {c.contentType}}, []byte(c.body))
		if (err == nil) != (c.wrong == "") || err != nil && !strings.Contains(err.Error(), c.wrong) {
			t.Errorf("%d %s: %v, want %q", c.status, c.body, err, c.wrong)
		}
	}
	if _, template := d.Operation("GET", "/v1/a/all"); template != "/v1/a/all" {
		t.Errorf("the template of /v1/a/all is %q", template)
	}
	if err := d.Check("GET", "/v1/b", 200, nil, nil); err == nil {
		t.Error("a successful response of a path that is not described passes")
	}
	if err := d.Check("GET", "/v1/b", 404, nil, nil); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{`{"openapi":"3.0.0"}`, `{"openapi":"3.1.0","x":{"$ref":"#/y"}}`, `{"openapi":"3.1.0","schema":{"oneOf":[]}}`, `[`} {
		if _, err := Parse([]byte(bad)); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
}
