package transfer

import (
	"encoding/csv"
	"strings"
	"testing"
)

func TestWriter(t *testing.T) {
	const record = `{"id":"key_1","tenant":"acme","name":"=cmd|' /C calc'!A0","description":"a,\"b\"","scopes":["read","write"],"concurrency":3,"concurrency_per":"key","metadata":{"a":1},"expires_at":null,"last_four":"-abc"}`
	var out strings.Builder
	w, err := NewWriter(&out, CSV)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Write([]byte(record)); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(strings.NewReader(out.String())).ReadAll()
	if err != nil || len(rows) != 2 {
		t.Fatalf("%v %q", err, out.String())
	}
	for i, want := range map[int]string{0: "key_1", 2: "'=cmd|' /C calc'!A0", 3: `a,"b"`, 5: "'-abc", 7: "read write", 11: "", 18: "3", 20: `{"a":1}`, 21: "key"} {
		if rows[1][i] != want {
			t.Errorf("%s is %q, want %q", rows[0][i], rows[1][i], want)
		}
	}
	out.Reset()
	if w, err = NewWriter(&out, JSONL); err != nil {
		t.Fatal(err)
	}
	if err := w.Write([]byte(record)); err != nil || out.String() != record+"\n" {
		t.Errorf("%v %q", err, out.String())
	}
	if _, err := NewWriter(&out, "xml"); err == nil {
		t.Error("NewWriter accepted the format xml")
	}
}
