package sqlstore

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"time"
	"unicode/utf8"
)

// Values as they stand in columns. Each type writes one kind of value and, holding a
// pointer, scans it.

// micros returns t in Unix microseconds, nil for the zero time.
func micros(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMicro()
}

// timeInto scans what micros wrote.
type timeInto struct{ t *time.Time }

func (c timeInto) Scan(src any) error {
	switch v := src.(type) {
	case nil:
		*c.t = time.Time{}
	case int64:
		*c.t = time.UnixMicro(v).UTC()
	default:
		return fmt.Errorf("a time is %T", src)
	}
	return nil
}

// flag returns 1 or 0: databases differ in their booleans, not in their integers.
func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// jsonText returns raw as it stands, nil for none.
func jsonText(raw json.RawMessage) any {
	if raw == nil {
		return nil
	}
	return string(raw)
}

// jsonInto scans what jsonText wrote.
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
		return fmt.Errorf("a JSON text is %T", src)
	}
	return nil
}

// words returns names, which hold no spaces, in one text; nil for none at all.
func words(names []string) any {
	if names == nil {
		return nil
	}
	return strings.Join(names, " ")
}

// wordsInto scans what words wrote.
type wordsInto struct{ names *[]string }

func (c wordsInto) Scan(src any) error {
	switch v := src.(type) {
	case nil:
		*c.names = nil
	case string:
		*c.names = strings.Fields(v)
	default:
		return fmt.Errorf("a list is %T", src)
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

// prefixesInto scans what prefixes wrote. What cannot be read is an error: an address
// list that lost an entry would let others in.
type prefixesInto struct{ list *[]netip.Prefix }

func (c prefixesInto) Scan(src any) error {
	text, ok := src.(string)
	if !ok {
		return fmt.Errorf("an address list is %T", src)
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

// bytes returns b, nil where it is empty: drivers differ in what an empty one becomes.
func bytes(b []byte) any {
	if len(b) == 0 {
		return nil
	}
	return b
}

// storable replaces what PostgreSQL does not take in text: NUL, and bytes that are no
// UTF-8. Nothing that is stored has them; somebody may ask for it all the same.
func storable(args []any) []any {
	for i, a := range args {
		if s, ok := a.(string); ok && (!utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0) {
			args[i] = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
		}
	}
	return args
}

// fold returns a slug as it is compared. Slugs are ASCII.
func fold(slug string) string { return strings.ToLower(slug) }
