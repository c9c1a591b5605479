// Package formmethod finds the HTTP methods that the query or the body of a POST names in a field
// such as _method, in every way in which a known framework reads them.
package formmethod

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"strings"
	"unicode/utf8"
)

// Unread are the methods that a body is assumed to name if frameworks may read it in
// different ways.
var Unread = []string{http.MethodPut, http.MethodPatch, http.MethodDelete}

// Kinds of bodies by Content-Type.
const (
	otherBody = iota
	formBody
	multipartBody
	jsonBody
	oddBody // frameworks may read the type differently
)

// MayName reports whether r has a body in which a framework may look for a method.
func MayName(r *http.Request) bool {
	return r.Body != nil && r.ContentLength != 0 && bodyKind(r) != otherBody
}

func bodyKind(r *http.Request) int {
	types := r.Header["Content-Type"]
	switch len(types) {
	case 0:
		return formBody // Rack and PHP treat a body of this content type as a form.
	case 1:
		return kindOf(types[0])
	}
	for _, t := range types {
		if kindOf(t) != otherBody {
			return oddBody
		}
	}
	return otherBody
}

func kindOf(contentType string) int {
	media := strings.TrimLeft(contentType, " \t")
	if i := strings.IndexAny(media, ";, \t"); i >= 0 {
		media = media[:i]
	}
	media = strings.ToLower(media)
	kind := otherBody
	switch {
	case media == "application/x-www-form-urlencoded", !strings.Contains(media, "/"):
		kind = formBody
	case strings.HasPrefix(media, "multipart/"):
		kind = multipartBody
	case strings.HasSuffix(media, "/json"), strings.HasSuffix(media, "+json"):
		kind = jsonBody
	}
	lower := strings.ToLower(contentType)
	if kind != jsonBody && (strings.Contains(lower, "/json") || strings.Contains(lower, "+json")) {
		return oddBody // Laravel searches the whole header for the words that mean JSON, so this body may count as JSON.
	}
	if kind != otherBody && strings.Contains(lower, "charset") && !plainCharset.MatchString(contentType) {
		return oddBody // In charsets such as UTF-16 and UTF-7, the name of a field is encoded in other bytes, so it can't be searched for.
	}
	return kind
}

// plainCharset matches a Content-Type whose charset encodes ASCII characters as ASCII.
var plainCharset = regexp.MustCompile(`(?i)^[^;]*(;\s*[a-z]+="?[^;"]*"?\s*)*;\s*charset\s*=\s*"?(utf-?8|us-ascii|ascii|iso-8859-1?[0-9]|latin1|windows-125[0-9])"?\s*(;\s*boundary=[^;]*)?$`)

// InBody returns the methods that r's body names. ok is false if frameworks may read the
// body in different ways.
func InBody(r *http.Request, body []byte) (methods []string, ok bool) {
	switch bodyKind(r) {
	case formBody:
		return InForm(nil, string(body)), true
	case multipartBody:
		return multipartMethods(r.Header.Get("Content-Type"), body)
	case jsonBody:
		return jsonMethods(body)
	}
	return nil, false
}

// InForm appends to to the methods that a query, or a form in a body, names.
func InForm(to []string, text string) []string {
	for pair := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == '&' || r == ';' }) {
		name, value, _ := strings.Cut(pair, "=")
		if isMethodField(unescape(name)) {
			to = addMethod(to, unescape(value))
		}
	}
	return to
}

// unescape decodes a name or value of a form. Invalid escapes stay unchanged, as in lenient
// parsers.
func unescape(s string) string {
	if !strings.ContainsAny(s, "%+") {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '+':
			out = append(out, ' ')
		case c == '%' && i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]):
			out = append(out, unhex(s[i+1])<<4|unhex(s[i+2]))
			i += 2
		case c == '%' && i+5 < len(s) && (s[i+1] == 'u' || s[i+1] == 'U') && s[i+2] == '0' && s[i+3] == '0' && isHex(s[i+4]) && isHex(s[i+5]):
			out = append(out, unhex(s[i+4])<<4|unhex(s[i+5])) // ASP.NET decodes %u005f to an underscore
			i += 5
		default:
			out = append(out, c)
		}
	}
	return string(out)
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c&^0x20 - 'A' + 10
}

// isMethodField reports whether a framework could read a field with this name as the method. PHP
// turns '.', ' ' and '[' into '_', ignores leading blanks, and ends names at a NUL byte.
func isMethodField(name string) bool {
	name = strings.Trim(name, " \t\r\n")
	if i := strings.IndexByte(name, 0); i >= 0 {
		name = name[:i]
	}
	const field = "_method"
	if len(name) < len(field) {
		return false
	}
	// ASP.NET MVC accepts the override header's name as a form field.
	if strings.EqualFold(strings.NewReplacer("_", "-", ".", "-", " ", "-").Replace(name), "x-http-method-override") {
		return true
	}
	for i := range len(field) {
		c := name[i]
		if c == '.' || c == ' ' || c == '[' {
			c = '_'
		}
		if c != field[i] && (c|0x20) != field[i] {
			return false
		}
	}
	return len(name) == len(field) || strings.IndexByte("[. ", name[len(field)]) >= 0
}

// addMethod appends the method that a field's value names, or all of Unread if the value is
// not a valid method.
func addMethod(to []string, value string) []string {
	value = strings.ToUpper(strings.Trim(value, " \t\r\n"))
	switch {
	case value == "":
		return to
	case methodName.MatchString(value):
		return append(to, value)
	}
	return append(to, Unread...)
}

var methodName = regexp.MustCompile(`^[A-Z]([A-Z-]{0,30}[A-Z])?$`)

// jsonMethods returns the methods that the members of a JSON object name. ok is false if parsers
// may differ: for invalid JSON and for bytes that are not UTF-8.
func jsonMethods(body []byte) (methods []string, ok bool) {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil, true
	}
	if !utf8.Valid(body) || !json.Valid(body) {
		return nil, false
	}
	d := json.NewDecoder(bytes.NewReader(body))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, err == nil
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, false
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, false
		}
		if text, _ := name.(string); !isMethodField(text) || string(value) == "null" {
			continue
		}
		var text string
		if json.Unmarshal(value, &text) != nil {
			text = "?" // The value is no string, so it can't be a known method. The question mark makes it count as an invalid one.
		}
		methods = addMethod(methods, text)
	}
	_, err := d.Token() // reads the closing brace
	return methods, err == nil || err == io.EOF
}

var (
	// boundary matches the form of Content-Type in which all parsers find the same boundary.
	boundary = regexp.MustCompile(`(?i)^multipart/[a-z-]+[ \t]*;[ \t]*(?:charset="?[a-z0-9-]+"?[ \t]*;[ \t]*)?boundary=(?:([0-9A-Za-z'+_./:=?-]{1,70})|"([0-9A-Za-z'()+_,./:=? -]{1,70})")[ \t]*(?:;[ \t]*charset="?[a-z0-9-]+"?)?$`)
	// disposition matches the header of a part in which all parsers find the same name.
	disposition = regexp.MustCompile(`(?i)^content-disposition:[ \t]*form-data;[ \t]*name=(?:"([^"\\]*)"|([!#$&+.^_|~0-9a-z-]+))(?:;[ \t]*filename=(?:"(?:[^"\\]|\\[^"\\])*"|[!#$&+.^_|~0-9a-z-]+))?(?:;[ \t]*filename\*=utf-8'[a-z-]*'[^;"\\ ]*)?[ \t]*$`)
	// plainPart matches the other headers that a part may have without making its name or value
	// unclear.
	plainPart = regexp.MustCompile(`(?i)^(content-type:[ -~]*|content-length:[ 0-9]*|content-transfer-encoding:[ \t]*(binary|8bit|7bit))$`)
)

// multipartMethods returns the methods that the parts name. Parsers differ widely, so ok is false
// unless the body has exactly the form that browsers and HTTP libraries write.
func multipartMethods(contentType string, body []byte) (methods []string, ok bool) {
	m := boundary.FindStringSubmatch(contentType)
	if m == nil {
		return nil, false
	}
	parts := bytes.Split(body, []byte("--"+m[1]+m[2]))
	last := len(parts) - 1
	if len(parts[0]) != 0 || last < 1 || string(bytes.TrimSuffix(parts[last], []byte("\r\n"))) != "--" {
		return nil, false
	}
	for _, part := range parts[1:last] {
		inner, begins := bytes.CutPrefix(part, []byte("\r\n"))
		inner, ends := bytes.CutSuffix(inner, []byte("\r\n"))
		head, value, cut := bytes.Cut(inner, []byte("\r\n\r\n"))
		if !begins || !ends || !cut {
			return nil, false
		}
		name, named, plain := "", false, true
		for line := range strings.SplitSeq(string(head), "\r\n") {
			if m := disposition.FindStringSubmatch(line); m != nil && !named {
				name, named = m[1]+m[2], true
				continue
			}
			if !plainPart.MatchString(line) {
				return nil, false
			}
			plain = false
		}
		switch {
		case !named || strings.ContainsAny(name, "\r\n\x00"):
			return nil, false
		case !isMethodField(name) && !isMethodField(unescape(name)):
		case plain:
			methods = addMethod(methods, string(value))
		default:
			methods = append(methods, Unread...) // the part's value may be encoded
		}
	}
	return methods, true
}
