package sqlstore

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// This file's types convert values between Go and database columns. A type whose name ends in Into
// holds a pointer and scans a column into it.

// Micros returns t in Unix microseconds, or nil for the zero time.
func Micros(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMicro()
}

// TimeInto returns a scanner that reads a column written with Micros into t.
func TimeInto(t *time.Time) sql.Scanner { return timeInto{t} }

type timeInto struct{ t *time.Time }

func (c timeInto) Scan(src any) error {
	switch v := src.(type) {
	case nil:
		*c.t = time.Time{}
	case int64:
		*c.t = time.UnixMicro(v).UTC()
	default:
		return fmt.Errorf("a time was read as a %T", src)
	}
	return nil
}

// Flag returns 1 for true and 0 for false. Flags are stored as integers because databases differ in
// their booleans.
func Flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// jsonText returns raw JSON as a text, or NULL for nil.
func jsonText(raw json.RawMessage) any {
	if raw == nil {
		return nil
	}
	return string(raw)
}

// jsonInto scans a column that was written with jsonText.
type jsonInto struct{ raw *json.RawMessage }

func (c jsonInto) Scan(src any) error {
	switch v := src.(type) {
	case nil:
		*c.raw = nil
	case string:
		*c.raw = json.RawMessage(v)
	case []byte:
		*c.raw = append(json.RawMessage{}, v...)
	default:
		return fmt.Errorf("a JSON text was read as a %T", src)
	}
	return nil
}

// words returns names joined by spaces, or NULL for a nil slice. A name must not hold a space.
func words(names []string) any {
	if names == nil {
		return nil
	}
	return strings.Join(names, " ")
}

// wordsInto scans a column that was written with words, names joined by spaces.
type wordsInto struct{ names *[]string }

func (c wordsInto) Scan(src any) error {
	switch v := src.(type) {
	case nil:
		*c.names = nil
	case string:
		*c.names = strings.Fields(v)
	default:
		return fmt.Errorf("a list was read as a %T", src)
	}
	return nil
}

func prefixes(list []netip.Prefix) string {
	if len(list) == 0 {
		return ""
	}
	texts := make([]string, len(list))
	for i, p := range list {
		texts[i] = p.String()
	}
	return strings.Join(texts, " ")
}

// prefixesInto scans a list of IP prefixes that was written with prefixes. An entry that can't be
// parsed is an error. Ignoring the entry could leave the list empty, which would allow every address.
type prefixesInto struct{ list *[]netip.Prefix }

func (c prefixesInto) Scan(src any) error {
	text, ok := src.(string)
	if !ok {
		return fmt.Errorf("an address list was read as a %T", src)
	}
	*c.list = nil
	for _, f := range strings.Fields(text) {
		p, err := netip.ParsePrefix(f)
		if err != nil {
			return err
		}
		*c.list = append(*c.list, p)
	}
	return nil
}

// bytes returns b, or NULL if b is empty, because drivers differ in how they store an empty slice.
func bytes(b []byte) any {
	if len(b) == 0 {
		return nil
	}
	return b
}

// storable replaces characters that PostgreSQL does not accept in a text: NUL and invalid UTF-8. No
// stored text has such characters, but the argument of a query may have them.
func storable(args []any) []any {
	for i, a := range args {
		if s, ok := a.(string); ok && (!utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0) {
			args[i] = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
		}
	}
	return args
}

// Fold returns a slug in lower case, the form in which slugs are compared. Slugs are ASCII.
func Fold(slug string) string { return strings.ToLower(slug) }

// In returns the SQL condition " IN ($n, …)" for values. It also returns args with the values appended.
func In[T any](args []any, values []T) (string, []any) {
	var b strings.Builder
	b.WriteString(" IN (")
	for i, v := range values {
		if i > 0 {
			b.WriteByte(',')
		}
		args = append(args, v)
		b.WriteByte('$')
		b.WriteString(strconv.Itoa(len(args)))
	}
	b.WriteByte(')')
	return b.String(), args
}

// Chunk limits how many values one query names.
const Chunk = 500

// Chunks calls f with at most Chunk values at a time, until all were passed or f fails.
func Chunks[T any](values []T, f func([]T) error) error {
	for len(values) > 0 {
		n := min(Chunk, len(values))
		if err := f(values[:n]); err != nil {
			return err
		}
		values = values[n:]
	}
	return nil
}
