package console

import (
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io/fs"
	"math"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

//go:embed templates/*.html
var templateFiles embed.FS

// templateSet holds the template of each page by name, each with the layout and the shared parts,
// and the shared parts alone.
type templateSet struct {
	pages map[string]*template.Template
	parts *template.Template
}

// templates returns the parsed templates. Parsing takes 30 ms and 6 MiB, so that only processes
// with a console do it.
var templates = sync.OnceValue(readTemplates)

func readTemplates() templateSet {
	shared := template.Must(template.New("").Funcs(funcs).ParseFS(templateFiles, "templates/layout.html", "templates/parts*.html"))
	files, err := fs.Glob(templateFiles, "templates/*.html")
	if err != nil {
		panic(err)
	}
	out := map[string]*template.Template{}
	for _, file := range files {
		name := strings.TrimSuffix(path.Base(file), ".html")
		if name == "layout" || strings.HasPrefix(name, "parts") {
			continue
		}
		out[name] = template.Must(template.Must(shared.Clone()).ParseFS(templateFiles, file))
	}
	return templateSet{out, template.Must(shared.Clone())}
}

var funcs = template.FuncMap{
	"moment": moment, "clock": clock, "ago": ago, "until": until, "count": count, "bytes": byteSize, "ms": milliseconds,
	"field": newField, "status": statusOf, "reason": reasonText, "help": reasonHelp, "join": strings.Join, "dict": dict, "json": jsonText,
	"percent": percent, "deref": deref, "str": str, "num": num, "changes": changes, "has": slices.Contains[[]string], "event": eventText, "plural": plural,
	"short": short, "add": func(a, b int) int { return a + b },
}

// when returns the time that v is or points to, and false if there is none.
func when(v any) (time.Time, bool) {
	switch t := v.(type) {
	case time.Time:
		return t, !t.IsZero()
	case *time.Time:
		if t != nil {
			return *t, true
		}
	}
	return time.Time{}, false
}

// moment returns an HTML element with a time, which console.js converts to the reader's time zone.
func moment(v any) template.HTML {
	t, ok := when(v)
	if !ok {
		return "never"
	}
	t = t.UTC()
	return template.HTML(fmt.Sprintf(`<time datetime="%s">%s UTC</time>`, t.Format(time.RFC3339), t.Format("2 Jan 2006, 15:04")))
}

// clock returns an element as moment does, with seconds.
func clock(v any) template.HTML {
	t, ok := when(v)
	if !ok {
		return "never"
	}
	t = t.UTC()
	return template.HTML(fmt.Sprintf(`<time datetime="%s" data-seconds>%s UTC</time>`, t.Format(time.RFC3339Nano), t.Format("2 Jan, 15:04:05")))
}

// ago returns an HTML element with the time since v. The element's title is the time v.
func ago(v any) template.HTML {
	t, ok := when(v)
	if !ok {
		return "never"
	}
	return relative(t, spanText(time.Since(t))+" ago")
}

// until returns an HTML element with the time until v, or since v if it is in the past.
func until(v any) template.HTML {
	t, ok := when(v)
	if !ok {
		return "never"
	}
	if d := time.Until(t); d > 0 {
		return relative(t, "in "+spanText(d))
	}
	return relative(t, spanText(time.Since(t))+" ago")
}

func relative(t time.Time, text string) template.HTML {
	t = t.UTC()
	return template.HTML(fmt.Sprintf(`<time datetime="%s" data-relative title="%s UTC">%s</time>`, t.Format(time.RFC3339), t.Format("2 Jan 2006, 15:04:05"), text))
}

// spanText returns a duration in its largest unit, such as "3 hours".
func spanText(d time.Duration) string {
	unit := func(n int64, name string) string { return plural(n, name) }
	switch d = max(d, 0); {
	case d < 45*time.Second:
		return unit(int64(d/time.Second), "second")
	case d < 45*time.Minute:
		return unit(int64((d+30*time.Second)/time.Minute), "minute")
	case d < 36*time.Hour:
		return unit(int64((d+30*time.Minute)/time.Hour), "hour")
	case d < 100*24*time.Hour:
		return unit(int64((d+12*time.Hour)/(24*time.Hour)), "day")
	case d < 2*365*24*time.Hour:
		return unit(int64((d+15*24*time.Hour)/(30*24*time.Hour)), "month")
	}
	return unit(int64(d/(365*24*time.Hour)), "year")
}

// plural returns a number with its noun, such as "2 keys".
func plural(v any, name string) string {
	n := whole(v)
	if n == 1 {
		return "1 " + name
	}
	return count(n) + " " + name + "s"
}

func whole(v any) int64 {
	switch n := v.(type) {
	case int:
		return int64(n)
	case int64:
		return n
	case *int64:
		if n != nil {
			return *n
		}
	case *int:
		if n != nil {
			return int64(*n)
		}
	}
	return 0
}

// count returns a whole number with narrow spaces between groups of three digits.
func count(v any) string {
	s := itoa(whole(v))
	sign := ""
	if s[0] == '-' {
		sign, s = "−", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "\u202f" + s[i:]
	}
	return sign + s
}

// byteSize returns a number of bytes in the unit that leaves one to three digits before the
// decimal point.
func byteSize(v any) string {
	f, units := float64(whole(v)), []string{"B", "kB", "MB", "GB", "TB", "PB"}
	i := 0
	for ; f >= 999.5 && i < len(units)-1; i++ {
		f /= 1000
	}
	if i == 0 || f >= 99.5 {
		return fmt.Sprintf("%.0f %s", f, units[i])
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}

// milliseconds returns a latency for people, in milliseconds or seconds, or a dash if there is
// none.
func milliseconds(v any) string {
	var f float64
	switch n := v.(type) {
	case float64:
		f = n
	case *float64:
		if n == nil {
			return "–"
		}
		f = *n
	}
	switch {
	case f >= 10_000:
		return fmt.Sprintf("%.1f s", f/1000)
	case f >= 100:
		return fmt.Sprintf("%.0f ms", f)
	case f >= 1:
		return fmt.Sprintf("%.1f ms", f)
	}
	return fmt.Sprintf("%.2f ms", f)
}

// percent returns used as a percentage of limit, from 0 to 100. Only 0 used gives 0.
func percent(used, limit any) int {
	l := whole(limit)
	if l <= 0 {
		return 0
	}
	share := math.Round(float64(whole(used)) * 100 / float64(l))
	if whole(used) > 0 {
		share = max(share, 1)
	}
	return int(min(share, 100))
}

// deref returns the string that v points to, or "" for nil.
func deref(v *string) string {
	if v == nil {
		return ""
	}
	return *v
}

// str returns the default text of any value.
func str(v any) string { return fmt.Sprint(v) }

// num returns a number in the form that scripts parse, or "" for nil.
func num(v any) string {
	switch n := v.(type) {
	case *float64:
		if n == nil {
			return ""
		}
		return fmt.Sprint(*n)
	case float64:
		return fmt.Sprint(n)
	}
	return itoa(whole(v))
}

// short shortens a text to at most that many characters, for a cell of a table.
func short(s string, most int) string {
	r := []rune(s)
	if len(r) <= most {
		return s
	}
	return string(r[:most-1]) + "…"
}

// dict returns a map of names and values, with which a template passes several values to another.
func dict(pairs ...any) map[string]any {
	m := make(map[string]any, len(pairs)/2)
	for i := 0; i+1 < len(pairs); i += 2 {
		m[pairs[i].(string)] = pairs[i+1]
	}
	return m
}

func jsonText(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	return string(b)
}

// state is the text of a status and the CSS class of its badge.
type state struct{ Text, Look string }

func statusOf(s any) state {
	switch text := fmt.Sprint(s); text {
	case string(gateway.StatusActive), "delivered", "ready":
		return state{upperFirst(text), "good"}
	case string(gateway.StatusDisabled), "pending", "suspended":
		return state{upperFirst(text), "warn"}
	case string(gateway.StatusRevoked), "dead":
		return state{upperFirst(text), "bad"}
	default:
		return state{upperFirst(text), "dim"}
	}
}

// fieldView holds the data of the template "field".
type fieldView struct {
	Form               *form
	Name, Label, Hint  string
	Kind, Auto, Sample string
	Needed             bool
	Max                int
}

// newField returns the data of a form field. more holds names and values of further properties, in
// turn.
func newField(f *form, name, label, hint string, more ...any) (fieldView, error) {
	v := fieldView{Form: f, Name: name, Label: label, Hint: hint, Kind: "text", Auto: "off"}
	for i := 0; i+1 < len(more); i += 2 {
		switch what := more[i]; what {
		case "kind":
			v.Kind = more[i+1].(string)
		case "auto":
			v.Auto = more[i+1].(string)
		case "sample":
			v.Sample = more[i+1].(string)
		case "needed":
			v.Needed = more[i+1].(bool)
		case "max":
			v.Max = more[i+1].(int)
		default:
			return v, fmt.Errorf("a field has no %v", what)
		}
	}
	return v, nil
}

// ID returns the id of the field's HTML element.
func (v fieldView) ID() string { return "f-" + v.Name }

// Value returns the typed value, or "" for a password.
func (v fieldView) Value() string {
	if v.Kind == "password" {
		return ""
	}
	return v.Form.Value(v.Name)
}

// Error returns the fault of the field.
func (v fieldView) Error() string { return v.Form.Error(v.Name) }

// Described returns the ids of the elements that describe the field.
func (v fieldView) Described() string {
	var ids []string
	if v.Error() != "" {
		ids = append(ids, v.ID()+"-error")
	}
	if v.Hint != "" {
		ids = append(ids, v.ID()+"-hint")
	}
	return strings.Join(ids, " ")
}
