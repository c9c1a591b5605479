package api

import (
	"bytes"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/usage"
)

// CompleteUntilHeader carries the field complete_until in a CSV response.
const CompleteUntilHeader = "Keygate-Complete-Until"

var usageParams = []string{"from", "to", "step", "format"}

func (c *call) getKeyUsage() error {
	return c.usage(func(s *usage.Service, r usage.Range) (usage.Report, error) {
		return s.OfKey(c.ctx, c.actor, c.keyspace, c.r.PathValue("id"), r)
	})
}

func (c *call) getTenantUsage() error {
	return c.usage(func(s *usage.Service, r usage.Range) (usage.Report, error) {
		return s.OfTenant(c.ctx, c.actor, c.keyspace, c.r.PathValue("slug"), r)
	})
}

func (c *call) getUsage() error {
	return c.usage(func(s *usage.Service, r usage.Range) (usage.Report, error) {
		return s.OfAll(c.ctx, c.actor, c.keyspace, r, usage.Group(c.query("group_by")))
	})
}

// usage answers with a report, as JSON or CSV.
func (c *call) usage(report func(*usage.Service, usage.Range) (usage.Report, error)) error {
	s := c.h.opts.Usage
	if s == nil {
		return usage.Unavailable()
	}
	from, err := c.timeParameter("from")
	if err != nil {
		return err
	}
	to, err := c.timeParameter("to")
	if err != nil {
		return err
	}
	asCSV, err := c.asCSV()
	if err != nil {
		return err
	}
	step := usage.Step(c.query("step"))
	r, err := report(s, usage.Range{From: from, To: to, Step: step})
	if err != nil {
		return err
	}
	c.w.Header().Set("Vary", "Accept")
	if !asCSV {
		return c.json(http.StatusOK, r)
	}
	var b bytes.Buffer
	if err := r.WriteCSV(&b, step); err != nil {
		return err
	}
	h := c.w.Header()
	h.Set("Content-Type", "text/csv; charset=utf-8; header=present")
	h.Set("Content-Disposition", `attachment; filename="usage.csv"`)
	h.Set("Content-Length", strconv.Itoa(b.Len()))
	if r.CompleteUntil != nil {
		h.Set(CompleteUntilHeader, r.CompleteUntil.Format(time.RFC3339Nano))
	}
	c.w.WriteHeader(http.StatusOK)
	_, _ = b.WriteTo(c.w)
	return nil
}

// timeParameter returns a query parameter as a time in UTC, or the zero time if it is absent. A
// date means its first moment in UTC.
func (c *call) timeParameter(name string) (time.Time, error) {
	s := c.query(name)
	if s == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t, err = time.Parse(time.DateOnly, s)
	}
	if err != nil || t.Year() < 1970 || t.Year() > 9999 {
		return time.Time{}, parameterError(name, "must be a time as in RFC 3339, such as 2027-01-31T12:00:00Z (write a + as %2B), or a date")
	}
	return t.UTC(), nil
}

// asCSV reports whether the client asks for CSV. The parameter format takes precedence over the
// header Accept.
func (c *call) asCSV() (bool, error) {
	switch c.query("format") {
	case "csv":
		return true, nil
	case "json":
		return false, nil
	case "":
		accept := strings.Join(c.r.Header.Values("Accept"), ",")
		return weight(accept, "text/csv") > weight(accept, "application/json"), nil
	}
	return false, parameterError("format", "must be json or csv")
}

// weight returns the weight that an Accept header gives a media type. The most specific range that
// includes the type decides (RFC 9110, section 12.5.1).
func weight(accept, media string) float64 {
	kind, _, _ := strings.Cut(media, "/")
	best, specific := 0.0, 0
	for part := range strings.SplitSeq(accept, ",") {
		name, params, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		how := map[string]int{media: 3, kind + "/*": 2, "*/*": 1}[name]
		if how <= specific {
			continue
		}
		q := 1.0
		if text, ok := params["q"]; ok {
			if q, err = strconv.ParseFloat(text, 64); err != nil {
				q = 0
			}
		}
		best, specific = q, how
	}
	return best
}

func (c *call) listRequests() error {
	s := c.h.opts.Usage
	if s == nil {
		return usage.Unavailable()
	}
	page, err := c.page()
	if err != nil {
		return err
	}
	list, err := s.Requests(c.ctx, c.actor, c.keyspace, c.r.PathValue("id"), page)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, list)
}

const usageText = "The report has a line for each hour or day with requests, oldest first. A request counts when it has ended."

var (
	usageQuery = map[string]schema{
		"from":   aTime("The beginning, rounded down to a whole step. Default: 24 hours before to, or 30 days if step is day."),
		"to":     aTime("The end, rounded up to a whole step. Default: now."),
		"step":   oneOf("The period of a line; days are UTC days. Default: hour.", string(usage.ByHour), string(usage.ByDay)),
		"format": oneOf("Default: the format that Accept prefers, else json.", "json", "csv"),
		"group_by": oneOf("Separate lines for each tenant or key. Default: lines for all keys together.",
			string(usage.PerTenant), string(usage.PerKey)),
	}
	usageAnswers = map[int]any{http.StatusOK: media{"application/json": usage.Report{}, "text/csv": aText("The same, with a header line.")}}

	_ = document("GET /v1/keys/{id}/usage", doc{
		Summary: "Shows the usage of a key.", Description: usageText + " The report remains after the key is deleted.", Query: usageQuery, Answers: usageAnswers,
	})
	_ = document("GET /v1/tenants/{slug}/usage", doc{
		Summary: "Shows the usage of a tenant's keys.", Description: usageText + " The report remains after the keys and the tenant are deleted.", Query: usageQuery, Answers: usageAnswers,
	})
	_ = document("GET /v1/usage", doc{
		Summary: "Shows the usage of all keys.", Description: usageText, Query: usageQuery, Answers: usageAnswers,
	})
	_ = document("GET /v1/keys/{id}/requests", doc{
		Summary: "Lists a key's last requests, newest first.",
		Answers: map[int]any{http.StatusOK: management.Page[usage.RequestRecord]{}},
	})
)
