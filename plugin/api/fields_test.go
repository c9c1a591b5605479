package api_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// TestBodiesAreDescribed sends every field name of the OpenAPI document to every route. A route
// must accept the fields of its own description and no others.
func TestBodiesAreDescribed(t *testing.T) {
	w := newFixture(t)
	w.send("POST", "/v1/tenants", newTenant).want(201)
	id := w.send("POST", "/v1/tenants/acme/keys", keyBody).want(201)["id"].(string)
	var doc struct {
		Paths map[string]map[string]struct {
			Security    []any `json:"security"`
			RequestBody struct {
				Content map[string]struct {
					Schema struct {
						Properties           map[string]any `json:"properties"`
						AdditionalProperties any            `json:"additionalProperties"`
					} `json:"schema"`
				} `json:"content"`
			} `json:"requestBody"`
		} `json:"paths"`
	}
	if err := json.Unmarshal([]byte(w.send("GET", "/v1/openapi.json", "").body), &doc); err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{}
	for _, methods := range doc.Paths {
		for _, op := range methods {
			for name := range op.RequestBody.Content["application/json"].Schema.Properties {
				all[name] = true
			}
		}
	}
	names := slices.Sorted(maps.Keys(all))
	for template, methods := range doc.Paths {
		for method, op := range methods {
			properties := op.RequestBody.Content["application/json"].Schema.Properties
			if len(properties) == 0 || len(op.Security) == 0 {
				continue
			}
			path := strings.NewReplacer("{slug}", "acme", "{id}", id).Replace(template)
			for _, name := range names {
				// An object is an invalid value for most fields, so that the requests change
				// little.
				body := `{"` + name + `":{"x":{}},"no field of any route":1}`
				rec := httptest.NewRecorder()
				w.handler.ServeHTTP(rec, httptest.NewRequest(strings.ToUpper(method), path, strings.NewReader(body)))
				if rec.Code != http.StatusUnprocessableEntity {
					if rec.Code != http.StatusNotFound && rec.Code != http.StatusServiceUnavailable {
						t.Errorf("%s %s with %s answered %d %s", method, template, body, rec.Code, rec.Body)
					}
					continue
				}
				unknown := strings.Contains(rec.Body.String(), `{"pointer":"/`+name+`","detail":"is not a field of this request"}`)
				if _, described := properties[name]; described == unknown {
					t.Errorf("%s %s: the field %q is described: %v, is known to the route: %v", method, template, name, described, !unknown)
				}
			}
		}
	}
}
