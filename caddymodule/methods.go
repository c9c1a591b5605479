package caddymodule

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/rules"
)

// Many frameworks treat a POST as another method if its query or body names one in _method. So if
// rules differ by method, such a POST must satisfy the rules of both methods.

// maxOverrideBody is the number of bytes that are read of a body to look for a method.
const maxOverrideBody = 64 << 10

// unreadMethods are the methods that a body is assumed to name if frameworks may read it in
// different ways.
var unreadMethods = []string{http.MethodPut, http.MethodPatch, http.MethodDelete}

// removedOverrides returns the override headers to remove. A header that names another path would
// bypass every rule, so only the deprecated keep_overrides keeps it.
func removedOverrides(c *config.HandlerConfig) overrides {
	switch {
	case c.KeepOverrides:
		return noOverrides
	case c.MethodOverride == config.OverridePass:
		return pathOverrides
	}
	return allOverrides
}

// rulePath is the path that rules are evaluated for.
type rulePath = *rules.Path

// overrideRules are the rules of a directive, for a POST that may count as another method.
type overrideRules struct {
	set    *rules.Set
	scopes *gateway.Scopes
	// methods are the methods whose rules may differ from those of POST: each method that a rule
	// names, and one other that represents all the rest.
	methods []string
}

// newOverrideRules returns nil if overrides are not checked or no rule names a method.
func newOverrideRules(c *config.HandlerConfig, set *rules.Set, scopes *gateway.Scopes) *overrideRules {
	methods := c.Config.Methods()
	if set == nil || len(methods) == 0 || removedOverrides(c) != allOverrides {
		return nil
	}
	return &overrideRules{set, scopes, append(methods, "-")}
}

// and returns the strictest of v and the verdicts for the path with each of the methods.
func (o *overrideRules) and(v rules.Verdict, p rulePath, methods []string) rules.Verdict {
	for _, m := range methods {
		v = v.And(o.set.Evaluate(m, p))
	}
	return v
}

// strictest returns the verdict for a POST that names every method.
func (o *overrideRules) strictest(v rules.Verdict, p rulePath) rules.Verdict {
	return o.and(v, p, o.methods)
}

// adds reports whether w is stricter than v in any way.
func (o *overrideRules) adds(v, w rules.Verdict) bool {
	held := o.scopes.Closure(o.scopes.List(gateway.ScopeSet(v.Need)))
	return w.Class > v.Class || gateway.ScopeSet(w.Need)&^held != 0 || w.Deny && !v.Deny || w.Cost > v.Cost || actualOf(w) != actualOf(v)
}

func actualOf(v rules.Verdict) string {
	if v.Rule == nil {
		return ""
	}
	return v.Rule.Actual
}

// query returns the verdict for a request whose query names other methods. WordPress reads them
// for every method of the request.
func (o *overrideRules) query(v rules.Verdict, p rulePath, query string) rules.Verdict {
	if o == nil || query == "" {
		return v
	}
	return o.and(v, p, formMethods(nil, query))
}

// override is a body that may name other methods and so make the verdict stricter. nil means that
// the body can't.
type override struct {
	check *requestCheck
	rules *overrideRules
	r     *http.Request
	path  rules.Path
	// strictest is the verdict if the body names every method.
	strictest rules.Verdict
}

// newOverride returns the override for the body of x's request, or nil if the body can't change
// x.verdict.
func (x *exchange) newOverride(p rulePath) *override {
	o := x.h.rules.overrides
	if o == nil || p.Rejected() || !strings.EqualFold(x.r.Method, http.MethodPost) {
		return nil
	}
	strictest := o.strictest(x.verdict, p)
	if !o.adds(x.verdict, strictest) || !mayNameMethod(x.r) {
		return nil
	}
	return &override{&x.requestCheck, o, x.r, *p, strictest}
}

// demandsMore reports whether the body may make the class of the request stricter.
func (o *override) demandsMore() bool { return o != nil && o.strictest.Class > o.check.verdict.Class }

// read reads the body and makes the verdict as strict as those for the methods that the body
// names. The request keeps its whole body.
func (o *override) read() {
	o.check.verdict = o.rules.and(o.check.verdict, &o.path, bodyMethods(o.r))
}

// refine does the same as read, as the function gateway.Request.Refine.
func (o *override) refine(q *gateway.Request) {
	o.read()
	q.Now = time.Now() // the client may have sent the body slowly
	o.check.demand()
}

// bodyMethods returns the methods that r's body names. Afterwards r.Body still returns the whole
// body.
func bodyMethods(r *http.Request) []string {
	if r.ContentLength > maxOverrideBody || encoded(r) {
		return unreadMethods
	}
	body, whole := readAhead(r, maxOverrideBody)
	if !whole {
		return unreadMethods
	}
	methods, ok := namedMethods(r, body)
	if !ok {
		return unreadMethods
	}
	return methods
}

// encoded reports whether r's body is compressed.
func encoded(r *http.Request) bool {
	for _, v := range r.Header["Content-Encoding"] {
		if v != "" && !strings.EqualFold(v, "identity") {
			return true
		}
	}
	return false
}

// readAhead reads up to limit bytes of the body and reports whether that is all of it. Afterwards
// r.Body still returns the whole body.
func readAhead(r *http.Request, limit int) (body []byte, whole bool) {
	// Reading makes the server send 100 Continue. The upstream must not ask for a second one.
	delete(r.Header, "Expect")
	body, err := io.ReadAll(io.LimitReader(r.Body, int64(limit)+1))
	whole = err == nil && len(body) <= limit
	if whole {
		err = io.EOF
	}
	r.Body = &aheadBody{ReadCloser: r.Body, ahead: body, err: err}
	return body, whole
}

// The functions below find the methods that a query or a body names, in every way in which a known
// framework reads them.

// Kinds of bodies by Content-Type.
const (
	otherBody = iota
	formBody
	multipartBody
	jsonBody
	oddBody // frameworks may read the type differently
)

// mayNameMethod reports whether r has a body in which a framework may look for a method.
func mayNameMethod(r *http.Request) bool {
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

// namedMethods returns the methods that r's body names. ok is false if frameworks may read the
// body in different ways.
func namedMethods(r *http.Request, body []byte) (methods []string, ok bool) {
	switch bodyKind(r) {
	case formBody:
		return formMethods(nil, string(body)), true
	case multipartBody:
		return multipartMethods(r.Header.Get("Content-Type"), body)
	case jsonBody:
		return jsonMethods(body)
	}
	return nil, false
}

// formMethods appends to to the methods that a query, or a form in a body, names.
func formMethods(to []string, text string) []string {
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
	if foldsTo(name, "x-http-method-override", false) {
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

// addMethod appends the method that a field's value names, or all of unreadMethods if the value is
// not a valid method.
func addMethod(to []string, value string) []string {
	value = strings.ToUpper(strings.Trim(value, " \t\r\n"))
	switch {
	case value == "":
		return to
	case methodName.MatchString(value):
		return append(to, value)
	}
	return append(to, unreadMethods...)
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
			methods = append(methods, unreadMethods...) // the part's value may be encoded
		}
	}
	return methods, true
}
