// Package apitest checks responses of the management API against the API's OpenAPI document. Only
// tests use it.
package apitest

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Document is an OpenAPI 3.1 document whose schemas use only the keywords in the variable
// keywords. Immutable.
type Document struct{ root map[string]any }

// Parse reads an OpenAPI document. It fails for a reference without a target, and for a keyword
// that Check would ignore.
func Parse(b []byte) (*Document, error) {
	d := new(Document)
	if err := json.Unmarshal(b, &d.root); err != nil {
		return nil, err
	}
	if v, _ := d.root["openapi"].(string); !strings.HasPrefix(v, "3.1") {
		return nil, fmt.Errorf("the field openapi of the document is %q, want 3.1", v)
	}
	return d, d.known("", d.root)
}

// keywords are the keywords that a schema may have.
var keywords = []string{
	"type", "properties", "required", "additionalProperties", "items", "enum", "format", "minimum", "maximum",
	"minLength", "maxLength", "allOf", "anyOf", "$ref", "description", "default",
}

// known returns an error if a schema under v has an unknown keyword, or if a reference has no
// target. at is the path to v for the error.
func (d *Document) known(at string, v any) error {
	switch v := v.(type) {
	case []any:
		for i, e := range v {
			if err := d.known(at+"/"+strconv.Itoa(i), e); err != nil {
				return err
			}
		}
	case map[string]any:
		if ref, ok := v["$ref"].(string); ok {
			if _, err := d.resolve(ref); err != nil {
				return fmt.Errorf("%s: %w", at, err)
			}
		}
		for name, e := range v {
			if s, ok := e.(map[string]any); ok && name == "schema" {
				for k := range s {
					if !slices.Contains(keywords, k) {
						return fmt.Errorf("%s/schema: the keyword %q is not supported by Check", at, k)
					}
				}
			}
			if err := d.known(at+"/"+name, e); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *Document) resolve(ref string) (map[string]any, error) {
	var v any = d.root
	for _, name := range strings.Split(strings.TrimPrefix(ref, "#/"), "/") {
		m, _ := v.(map[string]any)
		v = m[name]
	}
	s, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("the reference %s has no target", ref)
	}
	return s, nil
}

// Operation returns the description of a method of a path (without its query) and the path's
// template. op is nil if the document has no such operation. HEAD has the description of GET.
func (d *Document) Operation(method, path string) (op map[string]any, template string) {
	paths, _ := d.root["paths"].(map[string]any)
	if method == http.MethodHead {
		method = http.MethodGet
	}
	segments, most := strings.Split(path, "/"), -1
	for t, item := range paths {
		// If two templates match the path, the one with more literal segments wins.
		literal, ok := fits(strings.Split(t, "/"), segments)
		if found, is := item.(map[string]any)[strings.ToLower(method)].(map[string]any); ok && is && literal > most {
			op, template, most = found, t, literal
		}
	}
	return op, template
}

func fits(template, path []string) (literal int, ok bool) {
	if len(template) != len(path) {
		return 0, false
	}
	for i, t := range template {
		switch {
		case strings.HasPrefix(t, "{"):
		case t != path[i]:
			return 0, false
		default:
			literal++
		}
	}
	return literal, true
}

// Check returns an error for the first part of a response that the document does not describe, and
// nil if all is described. path is the path of the request, beginning with /v1/. A request for no
// described operation may be answered with any problem.
func (d *Document) Check(method, path string, status int, header http.Header, body []byte) error {
	at := fmt.Sprintf("%s %s answered %d", method, path, status)
	op, template := d.Operation(method, path)
	if op == nil {
		if status < 400 && method != http.MethodOptions {
			return fmt.Errorf("%s, and is not described", at)
		}
		return nil
	}
	at = fmt.Sprintf("%s %s (%s) answered %d", method, template, path, status)
	responses, _ := op["responses"].(map[string]any)
	response, ok := responses[strconv.Itoa(status)].(map[string]any)
	if !ok {
		return fmt.Errorf("%s %s, a status that is not described", at, body)
	}
	content, has := response["content"].(map[string]any)
	if !has {
		if len(body) > 0 {
			return fmt.Errorf("%s with a body that is not described: %s", at, body)
		}
		return nil
	}
	contentType, _, _ := strings.Cut(header.Get("Content-Type"), ";")
	m, ok := content[contentType].(map[string]any)
	if !ok {
		return fmt.Errorf("%s as %q, which is not described", at, contentType)
	}
	if method == http.MethodHead || !strings.HasSuffix(contentType, "json") {
		return nil
	}
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		return fmt.Errorf("%s %s: %w", at, body, err)
	}
	if err := d.check("", m["schema"], v); err != nil {
		return fmt.Errorf("%s %s: %w", at, body, err)
	}
	return nil
}

// check checks v against a schema. It rejects properties that the schema does not describe.
func (d *Document) check(at string, schema, v any) error {
	s, _ := schema.(map[string]any)
	if ref, ok := s["$ref"].(string); ok {
		to, err := d.resolve(ref)
		if err != nil {
			return err
		}
		return d.check(at, to, v)
	}
	for _, all := range list(s["allOf"]) {
		// Each part of allOf describes only its own properties.
		if err := d.check(at, all, v); err != nil {
			return err
		}
	}
	if kinds := list(s["anyOf"]); kinds != nil {
		if !slices.ContainsFunc(kinds, func(one any) bool { return d.check(at, one, v) == nil }) {
			return fmt.Errorf("%s: %v is none of %v", at, v, kinds)
		}
	}
	if values := list(s["enum"]); values != nil && !slices.ContainsFunc(values, func(e any) bool { return reflect.DeepEqual(e, v) }) {
		return fmt.Errorf("%s: %v is none of %v", at, v, values)
	}
	if s["type"] != nil && !ofType(s["type"], v) {
		return fmt.Errorf("%s: %v is not %v", at, v, s["type"])
	}
	switch v := v.(type) {
	case string:
		return text(at, s, v)
	case float64:
		if least, ok := s["minimum"].(float64); ok && v < least {
			return fmt.Errorf("%s: %v is below %v", at, v, least)
		}
		if most, ok := s["maximum"].(float64); ok && v > most {
			return fmt.Errorf("%s: %v is above %v", at, v, most)
		}
	case []any:
		for i, e := range v {
			if err := d.check(at+"/"+strconv.Itoa(i), s["items"], e); err != nil {
				return err
			}
		}
	case map[string]any:
		return d.object(at, s, v)
	}
	return nil
}

func (d *Document) object(at string, s, v map[string]any) error {
	for _, name := range list(s["required"]) {
		if _, ok := v[name.(string)]; !ok {
			return fmt.Errorf("%s/%v is missing", at, name)
		}
	}
	properties, _ := s["properties"].(map[string]any)
	for name, e := range v {
		p, ok := properties[name]
		if !ok {
			more := s["additionalProperties"]
			if more == false || more == nil && s["type"] != nil && properties != nil {
				return fmt.Errorf("%s/%s is not described", at, name)
			}
			p = more
		}
		if err := d.check(at+"/"+name, p, e); err != nil {
			return err
		}
	}
	return nil
}

func text(at string, s map[string]any, v string) error {
	if s["format"] == "date-time" {
		if t, err := time.Parse(time.RFC3339Nano, v); err != nil || t.Location() != time.UTC {
			return fmt.Errorf("%s: %q is not a time in UTC", at, v)
		}
	}
	n := float64(utf8.RuneCountInString(v))
	if least, ok := s["minLength"].(float64); ok && n < least {
		return fmt.Errorf("%s: %q is shorter than %v", at, v, least)
	}
	if most, ok := s["maxLength"].(float64); ok && n > most {
		return fmt.Errorf("%s: %q is longer than %v", at, v, most)
	}
	return nil
}

func list(v any) []any {
	l, _ := v.([]any)
	return l
}

func ofType(t, v any) bool {
	if several := list(t); several != nil {
		return slices.ContainsFunc(several, func(one any) bool { return ofType(one, v) })
	}
	switch v := v.(type) {
	case nil:
		return t == "null"
	case string:
		return t == "string"
	case bool:
		return t == "boolean"
	case float64:
		return t == "number" || t == "integer" && v == math.Trunc(v)
	case []any:
		return t == "array"
	case map[string]any:
		return t == "object"
	}
	return false
}
