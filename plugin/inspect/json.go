package inspect

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
)

// AppendJSON appends r to b as encoding/json would write it, with two differences: it does not
// escape HTML's characters, and it writes nil lists and objects as empty ones. Clients may verify
// each request of their own API, and encoding/json would take longer than the check.
func (r *Result) AppendJSON(b []byte) []byte {
	b = strconv.AppendBool(append(b, `{"allowed":`...), r.Allowed)
	b = appendText(append(b, `,"reason":`...), r.Reason)
	b = strconv.AppendInt(append(b, `,"status":`...), int64(r.Status), 10)
	b = appendText(append(b, `,"code":`...), r.Code)
	b = appendText(append(b, `,"message":`...), r.Message)
	b = appendText(append(b, `,"path":`...), r.Path)
	b = appendTextMap(append(b, `,"headers":`...), r.Headers)
	b = appendText(append(b, `,"tenant":`...), r.Tenant)
	b = appendText(append(b, `,"plan":`...), r.Plan)
	b = appendText(append(b, `,"key_id":`...), r.KeyID)
	b = appendText(append(b, `,"key_name":`...), r.KeyName)
	b = append(b, `,"scopes":[`...)
	for i, s := range r.Scopes {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendText(b, s)
	}
	b = appendText(append(b, `],"environment":`...), r.Environment)
	for i, check := range r.Checks {
		if i == 0 {
			b = append(b, `,"checks":[`...)
		} else {
			b = append(b, ',')
		}
		b = appendText(append(b, `{"check":`...), check.Check)
		b = strconv.AppendBool(append(b, `,"ok":`...), check.OK)
		b = append(appendText(append(b, `,"detail":`...), check.Detail), '}')
	}
	if len(r.Checks) > 0 {
		b = append(b, ']')
	}
	return append(b, '}')
}

// appendTextMap appends a JSON object whose values are strings, sorted by name.
func appendTextMap(b []byte, m map[string]string) []byte {
	var room [8]string
	names := room[:0]
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	b = append(b, '{')
	for i, name := range names {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendText(b, name), ':')
		b = appendText(b, m[name])
	}
	return append(b, '}')
}

// appendText appends s as a JSON string.
func appendText(b []byte, s string) []byte {
	begin := len(b)
	b = append(b, '"')
	start := 0
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(append(b, s[start:i]...), '\\', c)
			start = i + 1
		case c < ' ' || c > '~':
			return appendEscaped(b[:begin], s)
		}
	}
	return append(append(b, s[start:]...), '"')
}

// appendEscaped appends s as a JSON string, for a text with characters other than visible ASCII.
func appendEscaped(b []byte, s string) []byte {
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // Neither a string nor a write to a bytes.Buffer can fail.
	return append(b, bytes.TrimSuffix(buf.Bytes(), []byte("\n"))...)
}
