package api

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

// scanSeeds are bodies that the scanner accepts, and bodies that it must reject.
var scanSeeds = []string{
	`{}`, ` { } `, `{"a":1}`, `{"a":"b","c":null,"d":true,"e":false,"f":-0.5e+10,"g":[1,"x",{"h":[]}],"i":{"j":{}}}`,
	`{"a":"\u00e9\n\"\\\/"}`, `{"a":"\ud800"}`, `{"\u0061":1}`, `{"a":1,"a":2}`, `{"a":{"b":1,"b":2}}`, `{"a":[{"b":1},{"b":2}]}`,
	`{"a":01}`, `{"a":1.}`, `{"a":.5}`, `{"a":-}`, `{"a":1e}`, `{"a":1e+}`, `{"a":+1}`, `{"a":0x1}`, `{"a":NaN}`, `{"a":tru}`, `{"a":nul}`,
	`{"a":"\x"}`, `{"a":"\u12g4"}`, "{\"a\":\"\\u12\x104\"}", "{\"a\":\"\n\"}", `{"a":"b`, `{"a`, `{"a":`, `{"a":1`, `{"a":1,`, `{"a":1,}`, `{,}`, `{a:1}`,
	`{"a":1}x`, `{"a":1}{}`, `[1]`, `null`, `1`, ``, " ", "\ufeff{}", "{\"é\":\"\u2028\"}", `{"":""}`, `{"a":[1,]}`, `{"a":[,]}`, `{"a":[1 2]}`, `{"a" 1}`, `{"a":"\`,
	`{"a":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`, `{"a":"\u00GG"}`, `{"a":"\u0`,
}

// checkScan checks that encoding/json accepts each body that the scanner accepts, with the same
// fields and values.
func checkScan(t *testing.T, b []byte) {
	if !utf8.Valid(b) {
		return
	}
	fields, ok := scanObject(b)
	if !ok {
		return
	}
	slow, err := parseAny(b)
	if err != nil {
		t.Fatalf("the scanner accepts %q, which encoding/json rejects: %v", b, err)
	}
	if len(slow.fields) != len(fields) {
		t.Fatalf("%q: %d fields, not %d", b, len(fields), len(slow.fields))
	}
	quick := &object{fields: fields}
	for _, m := range slow.fields {
		raw, set, _ := quick.take(m.name)
		if string(m.raw) == "null" {
			m.raw = nil
		}
		if !set || !bytes.Equal(raw, m.raw) {
			t.Fatalf("%q: %q is %q, not %q", b, m.name, raw, m.raw)
		}
		plain, ok := plainText(raw)
		var s string
		if wrong := unmarshal(raw, &s, "no"); ok && (wrong != "" || s != plain) {
			t.Fatalf("%q: the text %q is not %q", b, plain, s)
		}
		var list []json.RawMessage
		if elements, ok := scanArray(raw); ok {
			if json.Unmarshal(raw, &list) != nil || len(list) != len(elements) {
				t.Fatalf("%q: %d elements, not %d", raw, len(elements), len(list))
			}
			for i := range list {
				if !bytes.Equal(list[i], elements[i]) {
					t.Fatalf("%q: element %d is %q, not %q", raw, i, elements[i], list[i])
				}
			}
		}
	}
}

func TestScannerAcceptsOnlyJSON(t *testing.T) {
	for _, s := range scanSeeds {
		checkScan(t, []byte(s))
	}
}

// The scanner accepts the bodies that clients usually send, so that they do not need
// encoding/json.
func TestScannerAcceptsUsualBodies(t *testing.T) {
	for _, s := range []string{
		`{"key":"kg_live_0123456789","method":"GET","path":"/v1/things?x=é","ip":"192.0.2.7","cost":5}`,
		` {"name" : "a \"name\"" , "scopes" : [ "read", "write" ], "metadata":{"a":[{"b":1},{"b":-2.5e3}]}, "expires_at" : null,"x":true,"y":false,"z":"\u00e9"}` + "\n",
		`{}`,
	} {
		if _, ok := scanObject([]byte(s)); !ok {
			t.Errorf("%s is left to encoding/json", s)
		}
	}
}

// FuzzScanner looks for bodies that the scanner accepts with another result than encoding/json.
func FuzzScanner(f *testing.F) {
	for _, s := range scanSeeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) { checkScan(t, b) })
}
func BenchmarkParseObject(b *testing.B) {
	body := []byte(`{"key":"kg_live_bench000000000000000000000000123","method":"GET","path":"/v1/things","ip":"192.0.2.7"}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parseObject(body); err != nil {
			b.Fatal(err)
		}
	}
}
