package api

import (
	"encoding/json"
	"maps"
	"net/http"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// documentOf returns a function that makes the OpenAPI document of the routes on its first call,
// and returns the same document afterwards.
func documentOf(routes []route) func() []byte {
	return sync.OnceValue(func() []byte {
		b, err := json.MarshalIndent(describe(routes), "", "  ")
		if err != nil {
			// Encoding can't fail, because the document is made of static tables and a test encodes it.
			panic(err)
		}
		return append(b, '\n')
	})
}

// getOpenAPI answers any client with the OpenAPI document, which contains no data of this gateway.
func (c *call) getOpenAPI() error {
	h := c.w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "public, max-age=300")
	b := c.h.openAPI()
	h.Set("Content-Length", strconv.Itoa(len(b)))
	c.w.WriteHeader(http.StatusOK)
	_, _ = c.w.Write(b)
	return nil
}

var _ = document("GET /v1/openapi.json", doc{
	Summary: "Returns this document.",
	Answers: map[int]any{http.StatusOK: anObject("OpenAPI 3.1")},
})

// describe returns the OpenAPI document of routes. https://spec.openapis.org/oas/v3.1.1
func describe(routes []route) schema {
	types := components{}
	types.of(problem{})
	paths := map[string]map[string]any{}
	for _, r := range routes {
		method, path, _ := strings.Cut(r.pattern, " ")
		if paths[path] == nil {
			paths[path] = map[string]any{}
		}
		paths[path][strings.ToLower(method)] = r.describe(types)
	}
	return schema{
		"openapi": "3.1.1",
		"info": schema{
			"title": "Keygate management API", "version": "1",
			"description": "Manages tenants and their API keys. Bodies and responses are JSON; " +
				"times are RFC 3339 in UTC; errors are problem details as RFC 9457 defines them.",
			"license": schema{"name": "Apache License 2.0", "identifier": "Apache-2.0"},
		},
		"servers": []schema{
			{"url": "http://localhost:2019/keygate", "description": "Caddy's admin endpoint, on the gateway's own machine."},
			{"url": "..", "description": "The URL of this document, without /v1/openapi.json."},
		},
		"paths": paths,
		"components": schema{
			"schemas": types,
			"securitySchemes": schema{"token": schema{
				"type": "http", "scheme": "bearer",
				"description": "A management token (kgm_…) with the listed scopes. Caddy's admin endpoint needs no token.",
			}},
		},
	}
}

var pathParameter = regexp.MustCompile(`\{(\w+)\}`)

func (r route) describe(types components) schema {
	d := docs[r.pattern]
	method, path, _ := strings.Cut(r.pattern, " ")
	op := schema{"operationId": r.name(), "summary": d.Summary, "tags": []string{strings.Split(path, "/")[2]}}
	if d.Description != "" {
		op["description"] = d.Description
	}
	op["security"] = []schema{}
	if r.scope != "" {
		op["security"] = []schema{{"token": []string{r.scope}}}
	}
	op["parameters"] = r.parameters(d)
	if d.Body != nil {
		body := schema{"type": "object", "properties": d.Body, "additionalProperties": false}
		if len(d.Required) > 0 {
			body["required"] = d.Required
		}
		op["requestBody"] = schema{"required": !d.EmptyBody, "content": schema{"application/json": schema{"schema": body}}}
	}

	responses := schema{}
	for status, v := range d.Answers {
		answer := schema{"description": http.StatusText(status)}
		switch v := v.(type) {
		case nil:
		case media:
			content := schema{}
			for contentType, body := range v {
				content[contentType] = schema{"schema": types.of(body)}
			}
			answer["content"] = content
		default:
			answer["content"] = schema{"application/json": schema{"schema": types.of(v)}}
		}
		if header := answerHeaders(method, d); len(header) > 0 {
			answer["headers"] = header
		}
		responses[strconv.Itoa(status)] = answer
	}
	for status, codes := range r.errors(d) {
		responses[strconv.Itoa(status)] = schema{
			"description": http.StatusText(status) + ": " + strings.Join(codes, ", "),
			"content": schema{"application/problem+json": schema{"schema": schema{
				"allOf": []schema{{"$ref": "#/components/schemas/Problem"}, {"properties": schema{"code": schema{"enum": codes}}}},
			}}},
		}
	}
	op["responses"] = responses
	return op
}

func answerHeaders(method string, d doc) schema {
	h := schema{}
	if d.Versioned {
		h["ETag"] = schema{"description": "The record's version, for If-Match.", "schema": aText("")}
	}
	if method == http.MethodPost {
		h["Idempotent-Replayed"] = schema{"description": "true if the request was carried out before.", "schema": aText("")}
	}
	if method != http.MethodGet {
		h[PendingHeader] = schema{"description": "The gateways that have not confirmed the change, as JSON; absent if all have.", "schema": aText("")}
	}
	return h
}

// name returns the route's operationId, which is the name of its method.
func (r route) name() string {
	full := runtime.FuncForPC(reflect.ValueOf(r.serve).Pointer()).Name()
	return full[strings.LastIndexByte(full, '.')+1:]
}

func (r route) parameters(d doc) []schema {
	method, path, _ := strings.Cut(r.pattern, " ")
	list := []schema{}
	for _, m := range pathParameter.FindAllStringSubmatch(path, -1) {
		list = append(list, schema{"name": m[1], "in": "path", "required": true, "schema": commonPath[m[1]]})
	}
	names := slices.Clone(r.params)
	if r.scope != "" {
		names = append(names, "keyspace")
	}
	for _, name := range names {
		s, ok := d.Query[name]
		if !ok {
			s = commonQuery[name]
		}
		list = append(list, schema{"name": name, "in": "query", "schema": s})
	}
	if d.Versioned && (method == http.MethodPut || method == http.MethodPatch || method == http.MethodDelete) {
		list = append(list, schema{"name": "If-Match", "in": "header", "schema": aText("An ETag. The change is made only if the record still has this version.")})
	}
	if method == http.MethodPost && r.scope != "" {
		list = append(list, schema{"name": IdempotencyHeader, "in": "header", "schema": aText(
			"A text of your choice, 1 to 255 visible ASCII characters. However often the request is sent within 24 hours, it is carried out once: " +
				"a repetition gets the same status and record, but no secret.")})
	}
	if r.scope != "" {
		list = append(list,
			schema{"name": ActorHeader, "in": "header", "schema": aText("The name of the person for whom the request is made, for the audit log; needs the scope act. Characters beyond ASCII are percent-encoded.")},
			schema{"name": ActorIPHeader, "in": "header", "schema": aText("That person's address; needs the scope act.")})
	}
	return list
}

// errors returns the codes of the errors that the route may answer, by status.
func (r route) errors(d doc) map[int][]string {
	all := map[int][]string{}
	add := func(more map[int][]string) {
		for status, codes := range more {
			all[status] = append(all[status], codes...)
		}
	}
	method, _, _ := strings.Cut(r.pattern, " ")
	if r.scope != "" {
		add(commonErrors)
	} else {
		add(map[int][]string{http.StatusUnprocessableEntity: {"unknown_field"}, http.StatusServiceUnavailable: {"store_unavailable", "not_running"}})
	}
	if d.Body != nil {
		add(bodyErrors)
	}
	if method == http.MethodPost && r.scope != "" {
		add(postErrors)
	}
	if d.Versioned && method != http.MethodPost {
		add(map[int][]string{http.StatusPreconditionFailed: {"precondition_failed"}})
	}
	add(d.Errors)
	for status := range maps.Keys(all) {
		slices.Sort(all[status])
		all[status] = slices.Compact(all[status])
	}
	return all
}
