package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/keygate-dev/keygate/plugin/management"
)

// MaxBody is the largest request body in bytes.
const MaxBody = 1 << 20

// object is a request's body, a JSON object. A handler takes the fields one by one; done then
// returns the faults of all of them, and rejects the fields that no handler took as unknown.
type object struct {
	fields []member
	faults []management.FieldError
}

// member is one field as the client sent it.
type member struct {
	name  string
	raw   json.RawMessage
	taken bool
}

var errBodyTooLarge = &management.Error{
	Status: http.StatusRequestEntityTooLarge, Code: "body_too_large", Detail: "The body is larger than 1 MiB.",
}

func invalidJSON(format string, args ...any) *management.Error {
	return &management.Error{
		Status: http.StatusBadRequest, Code: management.CodeInvalidJSON, Detail: fmt.Sprintf(format, args...),
	}
}

// body reads the request's body. If mayBeEmpty is set, an empty body counts as {}.
func (c *call) body(mayBeEmpty bool) (*object, error) {
	b, err := c.readBody()
	if err != nil {
		return nil, err
	}
	if len(bytes.TrimSpace(b)) == 0 {
		if mayBeEmpty {
			return &object{}, nil
		}
		return nil, invalidJSON("The body is empty; a JSON object is needed.")
	}
	return parseObject(b)
}

// readBody returns the request's body, of at most MaxBody bytes.
func (c *call) readBody() ([]byte, error) {
	size := int64(511)
	if c.r.ContentLength > 0 {
		size = min(c.r.ContentLength, 64<<10) // A client may announce a longer body than it sends.
	}
	b := make([]byte, 0, size+1) // One spare byte lets Read return io.EOF without growing the buffer.
	body := http.MaxBytesReader(c.w, c.r.Body, MaxBody)
	for {
		n, err := body.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		var large *http.MaxBytesError
		switch {
		case err == nil:
		case err == io.EOF:
			return b, nil
		case errors.As(err, &large):
			return nil, errBodyTooLarge
		default:
			return nil, invalidJSON("The body could not be read to its end.")
		}
		if len(b) == cap(b) {
			b = slices.Grow(b, len(b))
		}
	}
}

func parseObject(b []byte) (*object, error) {
	if !utf8.Valid(b) {
		return nil, invalidJSON("The body is not UTF-8.")
	}
	if fields, ok := scanObject(b); ok {
		return &object{fields: fields}, nil
	}
	return parseAny(b)
}

// parseAny parses a body that scanObject does not accept.
func parseAny(b []byte) (*object, error) {
	var whole json.RawMessage
	if err := json.Unmarshal(b, &whole); err != nil {
		return nil, invalidJSON("The body is not JSON: %s.", err)
	}
	if bytes.TrimSpace(b)[0] != '{' {
		return nil, invalidJSON("The body must be a JSON object.")
	}
	if err := rejectDuplicates(b); err != nil {
		return nil, err
	}
	o, err := membersOf(b)
	if err != nil {
		return nil, invalidJSON("The body is not JSON: %s.", err)
	}
	return o, nil
}

// membersOf splits a JSON object into its fields. For null, o is nil.
func membersOf(b []byte) (o *object, err error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(b, &fields); err != nil || fields == nil {
		return nil, err
	}
	o = &object{fields: make([]member, 0, len(fields))}
	for name, raw := range fields {
		o.fields = append(o.fields, member{name: name, raw: raw})
	}
	return o, nil
}

// maxFields bounds the fields of a body. Real requests have only a few.
const maxFields = 1000

// rejectDuplicates returns an error for a body with too many fields, and for an object at any
// depth that repeats a name, since JSON readers differ in which of the values they take. b must be
// valid JSON.
func rejectDuplicates(b []byte) error {
	type level struct {
		names map[string]bool // names is nil for an array.
		value bool            // value is true in an object if the next token is a value.
	}
	var stack []level
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	for {
		t, err := d.Token()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return invalidJSON("The body is not JSON: %s.", err)
		}
		if delim, ok := t.(json.Delim); ok && (delim == '}' || delim == ']') {
			stack = stack[:len(stack)-1]
			continue
		}
		if n := len(stack); n > 0 && stack[n-1].names != nil {
			top := &stack[n-1]
			if !top.value {
				name := t.(string)
				if top.names[name] {
					return invalidJSON("The name %q is repeated in an object.", clip(name))
				}
				if len(stack) == 1 && len(top.names) >= maxFields {
					return invalidJSON("The body has more than %d fields.", maxFields)
				}
				top.names[name], top.value = true, true
				continue
			}
			top.value = false
		}
		switch t {
		case json.Delim('{'):
			stack = append(stack, level{names: map[string]bool{}})
		case json.Delim('['):
			stack = append(stack, level{})
		}
	}
}

// maxUnknown bounds how many unknown fields an error names.
const maxUnknown = 20

// done returns an error with the faults of all fields and with the fields that were not taken. It
// returns nil if there are neither.
func (o *object) done() error {
	// The error names only the first maxUnknown fields in the order of their names, so done keeps
	// no others.
	var names []string
	for i := range o.fields {
		if m := &o.fields[i]; !m.taken && (len(names) < maxUnknown || m.name < names[maxUnknown-1]) {
			at, _ := slices.BinarySearch(names, m.name)
			names = slices.Insert(names, at, m.name)
			names = names[:min(len(names), maxUnknown)]
		}
	}
	if len(names) == 0 && len(o.faults) == 0 {
		return nil
	}
	unknown := make([]management.FieldError, 0, len(names)+len(o.faults))
	for _, name := range names {
		unknown = append(unknown, management.FieldError{Pointer: pointer(name), Detail: "is not a field of this request"})
	}
	e := &management.Error{
		Status: http.StatusUnprocessableEntity, Code: management.CodeInvalidField,
		Detail: "A field is invalid.", Fields: append(unknown, o.faults...),
	}
	if len(names) > 0 {
		e.Code, e.Detail = management.CodeUnknownField, "The request holds an unknown field."
	}
	return e
}

// pointer returns the JSON pointer (RFC 6901) to a field of the body.
func pointer(name string) string {
	return "/" + pointerEscaper.Replace(clip(name))
}

var pointerEscaper = strings.NewReplacer("~", "~0", "/", "~1")

func (o *object) fault(name, detail string) {
	o.faults = append(o.faults, management.FieldError{Pointer: pointer(name), Detail: detail})
}

// take returns a field's JSON and marks the field as taken. raw is nil for null.
func (o *object) take(name string) (raw json.RawMessage, set, null bool) {
	for i := range o.fields {
		if m := &o.fields[i]; m.name == name {
			m.taken = true
			if string(m.raw) == "null" {
				return nil, true, true
			}
			return m.raw, true, false
		}
	}
	return nil, false, false
}

// field reads a field with read, which returns a description of the value's fault, or "".
func field[T any](o *object, name string, read func(json.RawMessage, *T) string) (f management.Optional[T]) {
	raw, set, null := o.take(name)
	f.Set, f.Null = set, null
	if set && !null {
		if wrong := read(raw, &f.Value); wrong != "" {
			o.fault(name, wrong)
		}
	}
	return f
}

func (o *object) string(name string) management.Optional[string] {
	return field(o, name, func(raw json.RawMessage, s *string) string {
		return text(raw, s, "must be a string")
	})
}

func (o *object) bool(name string) management.Optional[bool] {
	return field(o, name, func(raw json.RawMessage, b *bool) string {
		return unmarshal(raw, b, "must be true or false")
	})
}

// text reads a JSON string into s. It returns must for any other value.
func text(raw json.RawMessage, s *string, must string) string {
	if plain, ok := plainText(raw); ok {
		*s = plain
		return ""
	}
	return unmarshal(raw, s, must)
}

func (o *object) int(name string) management.Optional[int64] {
	return field(o, name, func(raw json.RawMessage, n *int64) string {
		if c := raw[0]; c != '-' && (c < '0' || c > '9') {
			return "must be a number"
		}
		var err error
		if *n, err = strconv.ParseInt(string(raw), 10, 64); err != nil {
			if errors.Is(err, strconv.ErrRange) {
				return "is out of range"
			}
			return "must be a whole number"
		}
		return ""
	})
}

func (o *object) strings(name string) management.Optional[[]string] {
	return field(o, name, func(raw json.RawMessage, list *[]string) string {
		// With []string, a null in the list could not be distinguished from "".
		var entries []*string
		if wrong := unmarshal(raw, &entries, "must be an array of strings"); wrong != "" {
			return wrong
		}
		*list = make([]string, len(entries))
		for i, e := range entries {
			if e == nil {
				return "must be an array of strings"
			}
			(*list)[i] = *e
		}
		return ""
	})
}

func (o *object) time(name string) management.Optional[time.Time] {
	return field(o, name, func(raw json.RawMessage, t *time.Time) string {
		var s string
		const must = "must be a time as in RFC 3339, such as 2027-01-31T12:00:00Z"
		if wrong := text(raw, &s, must); wrong != "" {
			return wrong
		}
		var err error
		if *t, err = time.Parse(time.RFC3339, s); err != nil {
			return must
		}
		return ""
	})
}

func (o *object) object(name string) management.Optional[json.RawMessage] {
	return field(o, name, func(raw json.RawMessage, v *json.RawMessage) string {
		if raw[0] != '{' {
			return "must be a JSON object"
		}
		*v = raw
		return ""
	})
}

// numberOrText reads a field that is a number or a string.
func (o *object) numberOrText(name string) management.Optional[string] {
	return field(o, name, func(raw json.RawMessage, s *string) string {
		if raw[0] >= '0' && raw[0] <= '9' || raw[0] == '-' {
			*s = string(raw)
			return ""
		}
		return text(raw, s, "must be a number or a string")
	})
}

// concurrency reads the fields concurrency and concurrency_per. The field concurrency may also
// hold both, such as "5 per tenant".
func (o *object) concurrency() management.Optional[string] {
	limit, per := o.numberOrText("concurrency"), o.string("concurrency_per")
	switch {
	case !per.Set || per.Null:
	case !slices.Contains(concurrencyPers, per.Value):
		o.fault("concurrency_per", "must be key, tenant or address")
	case !limit.Set || limit.Null:
		o.fault("concurrency_per", "needs a number in concurrency")
	case strings.Contains(limit.Value, "per"):
		o.fault("concurrency_per", "is stated in concurrency too")
	default:
		limit.Value += " per " + per.Value
	}
	return limit
}

func unmarshal(raw json.RawMessage, into any, must string) string {
	if err := json.Unmarshal(raw, into); err != nil {
		return must
	}
	return ""
}
