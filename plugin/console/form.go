package console

import (
	"errors"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/keygate-dev/keygate/plugin/management"
)

// form holds the values that a person typed, and their faults.
type form struct {
	values url.Values
	// errors maps a field's name to its fault. The name "" stands for the whole form.
	errors map[string]string
}

func newForm(values url.Values) *form {
	if values == nil {
		values = url.Values{}
	}
	return &form{values: values, errors: map[string]string{}}
}

// Value returns the value of a field.
func (f *form) Value(name string) string { return f.values.Get(name) }

// Set sets the values of a field.
func (f *form) Set(name string, values ...string) { f.values[name] = values }

// Has reports whether v is one of the values of a field, such as of a group of checkboxes.
func (f *form) Has(name, v string) bool {
	for _, have := range f.values[name] {
		if have == v {
			return true
		}
	}
	return false
}

// Error returns the fault of a field, or "" if it has none. The name "" stands for the whole form.
func (f *form) Error(name string) string { return f.errors[name] }

// fieldFault is the fault of a field.
type fieldFault struct{ Name, Label, Text string }

// Faults returns the faults of fields, sorted by name.
func (f *form) Faults() (list []fieldFault) {
	for _, name := range slices.Sorted(maps.Keys(f.errors)) {
		if name != "" {
			list = append(list, fieldFault{name, upperFirst(strings.ReplaceAll(name, "_", " ")), f.errors[name]})
		}
	}
	return list
}

// Failed reports whether the form has faults.
func (f *form) Failed() bool { return len(f.errors) > 0 }

// forget removes a value that no page may show again, such as a key.
func (f *form) forget(name string) { delete(f.values, name) }

// fault sets the fault of a field, unless the field already has one.
func (f *form) fault(name, detail string) {
	if f.errors[name] == "" {
		f.errors[name] = upperFirst(detail)
	}
}

// take sets the faults of the fields that the error e names. It reports whether e names any field.
func (f *form) take(e *management.Error) bool {
	for _, fe := range e.Fields {
		name, at, nested := strings.Cut(strings.TrimPrefix(fe.Pointer, "/"), "/")
		detail := fe.Detail
		if n, err := strconv.Atoi(at); nested && err == nil {
			if values := f.lines(name); n < len(values) {
				detail = "“" + values[n] + "” " + detail
			}
		}
		f.fault(name, detail)
	}
	return len(e.Fields) > 0
}

// reject sets the faults of a *management.Error that rejects the form. It returns other errors,
// and those of status 401 and 404, unchanged.
func (f *form) reject(err error) (*management.Error, error) {
	var e *management.Error
	if !errors.As(err, &e) || e.Status == 401 || e.Status == 404 {
		return nil, err
	}
	if !f.take(e) {
		f.errors[""] = e.Detail
	}
	return e, nil
}

// lines returns the entries of a field: its values, split at commas and line breaks.
func (f *form) lines(name string) (out []string) {
	for _, v := range f.values[name] {
		for _, line := range strings.FieldsFunc(v, func(r rune) bool { return r == '\n' || r == '\r' || r == ',' }) {
			if line = strings.TrimSpace(line); line != "" {
				out = append(out, line)
			}
		}
	}
	return out
}

// text returns the value of a field without surrounding space.
func (f *form) text(name string) management.Optional[string] {
	return management.Some(strings.TrimSpace(f.Value(name)))
}

// orNull returns the value of a field, or null if it is empty.
func (f *form) orNull(name string) management.Optional[string] {
	if v := f.text(name); v.Value != "" {
		return v
	}
	return management.Null[string]()
}

// number returns the whole number in a field, or null if the field is empty.
func (f *form) number(name string) management.Optional[int64] {
	text := strings.NewReplacer(" ", "", "_", "", "\u202f", "", "\u00a0", "").Replace(f.Value(name))
	if text == "" {
		return management.Null[int64]()
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		f.fault(name, "must be a whole number, such as 500")
	}
	return management.Some(n)
}

// expiry reads the time at which something expires. The field choice holds a number of days,
// "never", or "date" for the time in the field date.
func (f *form) expiry(choice, date string, now time.Time) management.Optional[time.Time] {
	switch v := f.Value(choice); v {
	case "", "never":
		return management.Null[time.Time]()
	case "date":
		text := strings.TrimSpace(f.Value(date))
		for _, layout := range []string{"2006-01-02T15:04", "2006-01-02T15:04:05", "2006-01-02", time.RFC3339} {
			if at, err := time.Parse(layout, text); err == nil {
				return management.Some(at)
			}
		}
		f.fault("expires_at", "must be a date and time in UTC, such as 2027-01-31T12:00")
		return management.Some(now)
	default:
		days, err := strconv.Atoi(v)
		if err != nil || days < 1 || days > 3660 {
			f.fault("expires_at", "must be one of the choices")
			return management.Some(now)
		}
		return management.Some(now.AddDate(0, 0, days))
	}
}

func upperFirst(s string) string {
	if s == "" {
		return ""
	}
	r, n := utf8.DecodeRuneInString(s)
	return string(unicode.ToUpper(r)) + s[n:]
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// pageSize is the number of rows on a page of a list.
const pageSize = 25

// page returns the requested page of a list.
func (c *call) page() management.PageQuery {
	return management.PageQuery{Limit: pageSize, Cursor: c.r.URL.Query().Get("cursor")}
}

// next returns the link to a list's next page, with the list's filters, or "" on the last page.
func (c *call) next(cursor *string) string {
	if cursor == nil {
		return ""
	}
	q := c.r.URL.Query()
	q.Del("done")
	q.Set("cursor", *cursor)
	return c.path(c.r.URL.Path) + "?" + q.Encode()
}
