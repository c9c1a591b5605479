package api

import (
	"fmt"
	"net/http"
)

// doc describes a route in GET /v1/openapi.json.
type doc struct {
	// Summary states in a few words what the route does.
	Summary string
	// Description adds what a caller should know; may be empty.
	Description string
	// Query describes the route's query parameters, except those in commonQuery.
	Query map[string]schema
	// Body describes the fields that the body may hold; nil where there is no body.
	Body fields
	// Required names the fields of Body that must be stated.
	Required []string
	// EmptyBody reports whether the body may be left out.
	EmptyBody bool
	// Versioned reports whether the response has an ETag, and a change checks If-Match.
	Versioned bool
	// Answers holds, by status, a value of the type that is sent as JSON; nil for an empty response. A value may also be a
	// schema, or a media for other content types.
	Answers map[int]any
	// Errors holds, by status, the codes of the route's errors, besides those of every route.
	Errors map[int][]string
}

// fields are the properties of an object, by name.
type fields map[string]schema

// media holds the schemas of a response by content type.
type media map[string]any

// docs holds the descriptions by the route's pattern.
var docs = map[string]doc{}

// document describes the route of that pattern. Call it in the file of the route's method:
//
//	var _ = document("GET /v1/keys/{id}", doc{…})
func document(pattern string, d doc) struct{} {
	if _, twice := docs[pattern]; twice {
		panic(fmt.Sprintf("api: %s is described twice", pattern))
	}
	docs[pattern] = d
	return struct{}{}
}

// schema is a JSON Schema of draft 2020-12, which OpenAPI 3.1 uses.
type schema map[string]any

func described(typ, description string) schema {
	s := schema{"type": typ}
	if description != "" {
		s["description"] = description
	}
	return s
}

// Schemas of values in bodies and queries. description may be empty.
func aText(description string) schema   { return described("string", description) }
func aFlag(description string) schema   { return described("boolean", description) }
func aNumber(description string) schema { return described("integer", description) }
func anObject(description string) schema {
	return described("object", description)
}
func aMoment(description string) schema {
	return described("string", description).with("format", "date-time")
}
func aListOf(item schema, description string) schema {
	return described("array", description).with("items", item)
}
func oneOf(description string, values ...string) schema {
	return described("string", description).with("enum", values)
}

// with sets a keyword of s, and returns s.
func (s schema) with(keyword string, value any) schema {
	s[keyword] = value
	return s
}

// orNull makes s allow null, and returns s.
func (s schema) orNull() schema {
	switch t := s["type"].(type) {
	case string:
		s["type"] = []string{t, "null"}
		if list, ok := s["enum"].([]string); ok {
			all := make([]any, 0, len(list)+1)
			for _, v := range list {
				all = append(all, v)
			}
			s["enum"] = append(all, nil)
		}
	case []string:
		s["type"] = append(t, "null")
	default:
		return schema{"anyOf": []schema{s, {"type": "null"}}}
	}
	return s
}

// commonQuery are the query parameters that mean the same everywhere.
var commonQuery = map[string]schema{
	"keyspace": aText("The keyspace that is meant. Default: the token's; on the admin endpoint the only one, else the one named default."),
	"limit":    aNumber("How many entries a page has at the most.").with("minimum", 1).with("maximum", 100).with("default", 50),
	"cursor":   aText("next_cursor of the page before. Pages begin after the last entry of the one before, whatever came or went meanwhile."),
	"tenant":   aText("Only those of this tenant, by its slug."),
	"from":     aMoment("Only from this time on."),
	"to":       aMoment("Only before this time."),
}

// commonPath are the parameters of paths.
var commonPath = map[string]schema{
	"node": aText("The name of a gateway, as in the status."),
	"slug": aText("The tenant's slug, without regard to case."),
	"id":   aText("The record's id."),
}

// commonRefusals are what every route that asks for a token may answer.
var commonRefusals = map[int][]string{
	http.StatusUnauthorized:        {"missing_token", "invalid_token"},
	http.StatusForbidden:           {"insufficient_scope", "not_local"},
	http.StatusNotFound:            {"not_found"},
	http.StatusUnprocessableEntity: {"invalid_field", "unknown_field"},
	http.StatusTooManyRequests:     {"too_many_failures"},
	http.StatusServiceUnavailable:  {"store_unavailable", "not_running"},
}

// bodyRefusals are what every route that reads a body may answer.
var bodyRefusals = map[int][]string{
	http.StatusBadRequest:            {"invalid_json"},
	http.StatusRequestEntityTooLarge: {"body_too_large"},
}

// postRefusals are what every POST may answer to an Idempotency-Key.
var postRefusals = map[int][]string{
	http.StatusConflict:            {"request_running", "request_done"},
	http.StatusUnprocessableEntity: {"idempotency_key_reused"},
}
