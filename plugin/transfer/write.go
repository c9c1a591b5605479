package transfer

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// exported are the columns of a CSV file of exported keys.
var exported = []string{
	"id", "tenant", "name", "description", "key_prefix", "last_four", "environment", "scopes", "status",
	"created_at", "created_by", "expires_at", "revoked_at", "last_used_at", "last_used_ip", "allowed_ips",
	"rate", "quota", "concurrency", "credits_limit", "metadata", "concurrency_per",
}

// Writer writes key records of the management API as CSV or JSON lines. Such a record holds no
// secret.
type Writer struct {
	csv *csv.Writer // nil for JSON lines
	out io.Writer
}

// NewWriter returns a writer to out. It writes the header line of CSV at once.
func NewWriter(out io.Writer, format Format) (*Writer, error) {
	switch format {
	case JSONL:
		return &Writer{out: out}, nil
	case CSV:
		w := csv.NewWriter(out)
		return &Writer{csv: w}, w.Write(exported)
	}
	return nil, fmt.Errorf("unknown format %q: use csv or jsonl", format)
}

// Write writes one record, a JSON object.
func (w *Writer) Write(record json.RawMessage) error {
	if w.csv == nil {
		_, err := w.out.Write(append(record[:len(record):len(record)], '\n'))
		return err
	}
	var fields map[string]any
	if err := json.Unmarshal(record, &fields); err != nil {
		return err
	}
	cells := make([]string, len(exported))
	for i, name := range exported {
		cells[i] = Defuse(cell(fields[name]))
	}
	return w.csv.Write(cells)
}

// Flush writes the buffered records to the output.
func (w *Writer) Flush() error {
	if w.csv == nil {
		return nil
	}
	w.csv.Flush()
	return w.csv.Error()
}

func cell(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case []any:
		list := make([]string, len(v))
		for i, e := range v {
			list[i] = cell(e)
		}
		return strings.Join(list, " ")
	}
	b, err := json.Marshal(v)
	if err != nil || string(b) == "{}" {
		return ""
	}
	return string(b)
}

// Defuse returns s, with an apostrophe before it where a spreadsheet could take s for a formula:
// https://owasp.org/www-community/attacks/CSV_Injection
func Defuse(s string) string {
	if s != "" && strings.ContainsAny(s[:1], "=+-@\t\r\n|%") || strings.HasPrefix(s, "＝") || strings.HasPrefix(s, "＋") ||
		strings.HasPrefix(s, "－") || strings.HasPrefix(s, "＠") {
		return "'" + s
	}
	return s
}
