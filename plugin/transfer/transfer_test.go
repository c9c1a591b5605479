package transfer

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
)

// read returns all rows and all row errors of an import file.
func read(t testing.TB, in string, format Format) (rows []Row, faults []*RowError) {
	t.Helper()
	r, err := NewReader(strings.NewReader(in), format)
	if err != nil {
		t.Fatal(err)
	}
	for {
		row, err := r.Next()
		var fault *RowError
		switch {
		case err == io.EOF:
			return rows, faults
		case errors.As(err, &fault):
			faults = append(faults, fault)
		case err != nil:
			t.Fatal(err)
		default:
			rows = append(rows, row)
		}
	}
}

func TestCSV(t *testing.T) {
	rows, faults := read(t, "\ufefftenant,Key,scopes,disabled,credits_limit,concurrency,metadata\r\n"+
		"acme,k1,read;write admin,true,5,3,\"{\"\"a\"\":\n1}\"\r\n"+
		"acme,k2,,,,2 per tenant,\r\n"+
		"acme,sk_live_0123\r\n"+
		"acme,sk_live_0123,,maybe,,,\r\n"+
		"acme,k5,,,,,\r\n", CSV)
	want := []struct {
		line int
		json string
	}{
		{2, `{"concurrency":3,"credits_limit":5,"disabled":true,"key":"k1","metadata":{"a":1},"scopes":["read","write","admin"],"tenant":"acme"}`},
		{4, `{"concurrency":"2 per tenant","key":"k2","tenant":"acme"}`},
		{7, `{"key":"k5","tenant":"acme"}`},
	}
	if len(rows) != len(want) {
		t.Fatalf("%d rows", len(rows))
	}
	for i, w := range want {
		if rows[i].Line != w.line || string(rows[i].JSON) != w.json {
			t.Errorf("row %d: line %d %s, want line %d %s", i, rows[i].Line, rows[i].JSON, w.line, w.json)
		}
	}
	if len(faults) != 2 || faults[0].Line != 5 || !strings.Contains(faults[0].Text, "2 cells") || faults[1].Line != 6 || !strings.Contains(faults[1].Text, "disabled") {
		t.Errorf("faults %v", faults)
	}
	for _, fault := range faults {
		if strings.Contains(fault.Error(), "0123") {
			t.Errorf("a row error holds a key: %v", fault)
		}
	}
	for _, header := range []string{"", "tenant,tenant\n", "tenant,secret_0123\n"} {
		if _, err := NewReader(strings.NewReader(header), CSV); err == nil || strings.Contains(err.Error(), "0123") {
			t.Errorf("%q: %v", header, err)
		}
	}
}

func TestJSONLines(t *testing.T) {
	rows, faults := read(t, "{\"tenant\":\"a\"}\n\n  [1]\n{\"x\":\n"+"{\"long\":\""+strings.Repeat("x", maxLine)+"\"}\n{\"tenant\":\"b\"}", JSONL)
	if len(rows) != 2 || rows[0].Line != 1 || rows[1].Line != 6 || string(rows[1].JSON) != `{"tenant":"b"}` {
		t.Errorf("rows %v", rows)
	}
	if len(faults) != 3 || faults[0].Line != 3 || faults[1].Line != 4 || faults[2].Line != 5 {
		t.Errorf("faults %v", faults)
	}
}

// For any file, a Reader returns only JSON objects, the line numbers of rows and row errors rise,
// and the file ends.
func FuzzReader(f *testing.F) {
	f.Add("tenant,key\nacme,sk_live_abc\n", true)
	f.Add("tenant,metadata\nacme,\"{\"\"a\"\":1}\"\n\"", true)
	f.Add("{\"tenant\":\"a\"}\n{", false)
	f.Fuzz(func(t *testing.T, in string, isCSV bool) {
		format := JSONL
		if isCSV {
			format = CSV
		}
		r, err := NewReader(strings.NewReader(in), format)
		if err != nil {
			return
		}
		last := 0
		for range len(in) + 2 {
			row, err := r.Next()
			var fault *RowError
			switch {
			case err == io.EOF:
				return
			case errors.As(err, &fault):
				row.Line = fault.Line
			case err != nil:
				t.Fatal(err)
			default:
				var fields map[string]json.RawMessage
				if json.Unmarshal(row.JSON, &fields) != nil || fields == nil {
					t.Errorf("not a JSON object: %q", row.JSON)
				}
			}
			if row.Line <= last {
				t.Errorf("line %d after %d", row.Line, last)
			}
			last = row.Line
		}
		t.Error("the reader does not end")
	})
}
