package inspect

import (
	"bytes"
	"encoding/json"
	"testing"
)

// AppendJSON writes the same JSON as encoding/json, which knows every field of the record.
func TestResultIsWrittenAsJSON(t *testing.T) {
	texts := []string{"", "plain", `"quoted" \ and more`, "é\u2028<&>", "\x00\n\x7f", "a\xffb", `\"`, "\"é"}
	for i, text := range texts {
		other := texts[(i+1)%len(texts)]
		r := Result{
			Allowed: i%2 == 0, Reason: text, Status: 200 + i, Code: other, Message: text, Path: other, Headers: map[string]string{}, Tenant: text, Plan: other,
			KeyID: text, KeyName: text, Scopes: []string{}, Environment: other,
		}
		for j := range i {
			r.Headers[texts[j]] = other
			r.Scopes = append(r.Scopes, texts[j])
			r.Checks = append(r.Checks, Check{Check: text, OK: j%2 == 0, Detail: texts[j]})
		}
		var want bytes.Buffer
		e := json.NewEncoder(&want)
		e.SetEscapeHTML(false)
		if err := e.Encode(r); err != nil {
			t.Fatal(err)
		}
		if got := append(r.AppendJSON(nil), '\n'); !bytes.Equal(got, want.Bytes()) {
			t.Errorf("written as\n%s\nnot\n%s", got, want.Bytes())
		}
	}
	if got := new(Result).AppendJSON(nil); !bytes.Contains(got, []byte(`"headers":{},`)) || !bytes.Contains(got, []byte(`"scopes":[],`)) {
		t.Errorf("an empty result is written as %s", got)
	}
}

func BenchmarkResult(b *testing.B) {
	r := Result{
		Allowed: true, Reason: "allowed", Status: 200, Code: "allowed", Tenant: "acme", Plan: "pro", KeyID: "key_01m81nj28e33mwfq6wt8bn14ea", KeyName: "ci",
		Scopes: []string{"read", "write"}, Environment: "live", Headers: map[string]string{
			"RateLimit": `"1000/s";r=999;t=1`, "RateLimit-Policy": `"1000/s";q=1000;w=1`, "X-RateLimit-Limit": "1000", "X-RateLimit-Remaining": "999", "X-RateLimit-Reset": "1795352499",
		},
	}
	b.ReportAllocs()
	var buf []byte
	for b.Loop() {
		buf = r.AppendJSON(buf[:0])
	}
}
