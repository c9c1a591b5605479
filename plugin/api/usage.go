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

// CompleteUntilHeader holds complete_until in a CSV response.
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
	from, err := c.moment("from")
	if err != nil {
		return err
	}
	to, err := c.moment("to")
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

// moment reads a parameter that is a time, the zero time where it is absent. A date is its beginning in UTC.
func (c *call) moment(name string) (time.Time, error) {
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

// asCSV reports whether the client asks for CSV: by ?format=, else by Accept.
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

// weight returns what weight an Accept header gives a media type, as RFC 9110, section
// 12.5.1, has it: the most specific range that it is in decides.
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

const usageText = "A line for each hour or day in which there was a request, oldest first. Requests count when they have ended."

var (
	usageQuery = map[string]schema{
		"from":   aMoment("The beginning; moved back to a whole step. Default: 24 hours before to or, by day, 30 days."),
		"to":     aMoment("Up to then; moved on to a whole step. Default: now."),
		"step":   oneOf("How long a line is; days are UTC's. Default: hour.", string(usage.ByHour), string(usage.ByDay)),
		"format": oneOf("Default: what Accept says, else json.", "json", "csv"),
		"group_by": oneOf("Lines for each tenant or key. Default: for all together.",
			string(usage.PerTenant), string(usage.PerKey)),
	}
	usageAnswers = map[int]any{http.StatusOK: media{"application/json": usage.Report{}, "text/csv": aText("The same, with a header line.")}}

	_ = document("GET /v1/keys/{id}/usage", doc{
		Summary: "Shows what a key used.", Description: usageText + " It outlives the key.", Query: usageQuery, Answers: usageAnswers,
	})
	_ = document("GET /v1/tenants/{slug}/usage", doc{
		Summary: "Shows what a tenant's keys used.", Description: usageText + " It outlives the keys and the tenant.", Query: usageQuery, Answers: usageAnswers,
	})
	_ = document("GET /v1/usage", doc{
		Summary: "Shows what all keys used.", Description: usageText, Query: usageQuery, Answers: usageAnswers,
	})
	_ = document("GET /v1/keys/{id}/requests", doc{
		Summary: "Lists a key's last requests, newest first.",
		Answers: map[int]any{http.StatusOK: management.Page[usage.RequestRecord]{}},
	})
)
