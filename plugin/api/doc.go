package api

import (
	"fmt"
	"net/http"
)

// doc is the description of a route in GET /v1/openapi.json.
type doc struct {
	// Summary states in a few words what the route does.
	Summary string
	// Description adds details for the caller; may be empty.
	Description string
	// Query describes the route's query parameters, except those that commonQuery describes.
	Query map[string]schema
	// Body describes the fields that the body may have; nil for a route without a body.
	Body fields
	// Required names the fields of Body that a request must have.
	Required []string
	// EmptyBody is true if a request may leave out the body.
	EmptyBody bool
	// Versioned is true if the response has an ETag, and a change honours If-Match.
	Versioned bool
	// Answers maps a status to a value of the type that is sent as JSON, or to nil for an empty
	// response. Instead of a value, it may hold a schema, or a media for other content types.
	Answers map[int]any
	// Errors maps a status to the codes of the route's errors, without the errors of every route.
	Errors map[int][]string
}

// fields are the properties of an object, by name.
type fields map[string]schema

// media holds the schemas of a response by content type.
type media map[string]any

// docs maps a route's pattern to its description.
var docs = map[string]doc{}

// document registers the description of the route with the pattern. Call it in the file of the
// route's method:
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

// These functions return schemas of values in bodies and queries. description may be empty.
func aText(description string) schema   { return described("string", description) }
func aFlag(description string) schema   { return described("boolean", description) }
func aNumber(description string) schema { return described("integer", description) }
func anObject(description string) schema {
	return described("object", description)
}
func aTime(description string) schema {
	return described("string", description).with("format", "date-time")
}
func aListOf(item schema, description string) schema {
	return described("array", description).with("items", item)
}
func oneOf(description string, values ...string) schema {
	return described("string", description).with("enum", values)
}

// with sets a keyword of s and returns s.
func (s schema) with(keyword string, value any) schema {
	s[keyword] = value
	return s
}

// orNull lets s also accept null, and returns s.
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

// commonQuery describes the query parameters that mean the same on every route.
var commonQuery = map[string]schema{
	"keyspace": aText("The name of the keyspace. Default: the token's keyspace; on the admin endpoint the only keyspace, or else the one named default."),
	"limit":    aNumber("The most entries on a page.").with("minimum", 1).with("maximum", 100).with("default", 50),
	"cursor":   aText("next_cursor of the previous page. A page begins after the last entry of the previous page, even if entries were added or removed since."),
	"tenant":   aText("Only entries of the tenant with this slug."),
	"from":     aTime("Only entries at or after this time."),
	"to":       aTime("Only entries before this time."),
}

// commonPath describes the parameters of paths.
var commonPath = map[string]schema{
	"node": aText("The name of a gateway, as GET /v1/status shows it."),
	"slug": aText("The tenant's slug. Upper and lower case are equivalent."),
	"id":   aText("The record's id."),
}

// commonErrors are the error codes of every route that needs a token, by status.
var commonErrors = map[int][]string{
	http.StatusUnauthorized:        {"missing_token", "invalid_token"},
	http.StatusForbidden:           {"insufficient_scope", "not_local"},
	http.StatusNotFound:            {"not_found"},
	http.StatusUnprocessableEntity: {"invalid_field", "unknown_field"},
	http.StatusTooManyRequests:     {"too_many_failures"},
	http.StatusServiceUnavailable:  {"store_unavailable", "not_running"},
}

// bodyErrors are the error codes of every route that reads a body, by status.
var bodyErrors = map[int][]string{
	http.StatusBadRequest:            {"invalid_json"},
	http.StatusRequestEntityTooLarge: {"body_too_large"},
}

// postErrors are the error codes of every POST with an Idempotency-Key, by status.
var postErrors = map[int][]string{
	http.StatusConflict:            {"request_running", "request_done"},
	http.StatusUnprocessableEntity: {"idempotency_key_reused"},
}
