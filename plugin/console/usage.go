package console

import (
	"errors"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/limits"
	"github.com/keygate-dev/keygate/plugin/usage"
)

// usageView is the usage over a span of time, for charts and tables.
type usageView struct {
	// Spans are the links to the spans that a person can choose.
	Spans []spanLink
	// Step is the period of a line: "hour" or "day".
	Step  string
	Lines []usageLine
	// Reasons counts the rejected requests by reason, the most frequent reason first.
	Reasons []reasonSum
	// Requests to BytesOut are the sums over all lines of the report.
	Requests, Allowed, Refused, UpstreamErrors, Credits, BytesIn, BytesOut int64
	// HasCredits is true if credits were spent. HasLatency is true if a request reached the
	// upstream.
	HasCredits, HasLatency bool
	CompleteUntil          *time.Time
	// Wrong is the reason why the page can't show the usage.
	Wrong string
}

// usageLine is the usage of one step. Steps without requests have a line too.
type usageLine struct {
	usage.Line
	RefusedSum int64
}

// By returns the number of requests that were rejected for the reason.
func (l usageLine) By(reason string) int64 { return l.Rejected[reason] }

type reasonSum struct {
	Name string
	N    int64
}

// spanLink is a link to the usage of another span.
type spanLink struct {
	Label, URL string
	Here       bool
}

// spans lists the spans that a person can choose. The first is the default.
var spans = []struct {
	name, label string
	step        usage.Step
	steps       int
}{
	{"24h", "24 hours", usage.ByHour, 24},
	{"7d", "7 days", usage.ByHour, 7 * 24},
	{"30d", "30 days", usage.ByDay, 30},
	{"90d", "90 days", usage.ByDay, 90},
}

// usage returns the usage over the span that the page's URL names.
func (c *call) usage(report func(usage.Range) (usage.Report, error)) (*usageView, error) {
	v := &usageView{}
	asked := c.r.URL.Query().Get("span")
	span := spans[0]
	for _, s := range spans {
		if s.name == asked {
			span = s
		}
	}
	for _, s := range spans {
		v.Spans = append(v.Spans, spanLink{s.label, c.path(c.r.URL.Path) + "?span=" + s.name + "#usage", s.name == span.name})
	}
	v.Step = string(span.step)
	length := time.Hour
	if span.step == usage.ByDay {
		length = 24 * time.Hour
	}
	// The last step is the one that contains the current time.
	to := time.Now().UTC().Truncate(length).Add(length)
	first := to.Add(-time.Duration(span.steps) * length)
	r, err := report(usage.Range{From: first, To: to, Step: span.step})
	var e *management.Error
	if errors.As(err, &e) && e.Status != http.StatusNotFound {
		v.Wrong = e.Detail
		return v, nil
	}
	if err != nil {
		return nil, err
	}
	v.CompleteUntil = r.CompleteUntil
	v.fill(r.Data, first, length, span.steps)
	return v, nil
}

// fill sets the lines and the sums. Steps that are not in lines get a line without requests.
func (v *usageView) fill(lines []usage.Line, first time.Time, length time.Duration, steps int) {
	known := map[int64]usage.Line{}
	sums := map[string]int64{}
	for _, l := range lines {
		known[l.From.Unix()] = l
	}
	for i := range steps {
		at := first.Add(time.Duration(i) * length)
		l := usageLine{Line: known[at.Unix()]}
		l.From = at
		for reason, n := range l.Rejected {
			l.RefusedSum += n
			sums[reason] += n
		}
		v.Requests += l.Requests
		v.Allowed += l.Allowed
		v.Refused += l.RefusedSum
		v.UpstreamErrors += l.UpstreamErrors
		v.Credits += l.Credits
		v.BytesIn += l.BytesIn
		v.BytesOut += l.BytesOut
		v.HasLatency = v.HasLatency || l.Latency.P50 != nil
		v.Lines = append(v.Lines, l)
	}
	v.HasCredits = v.Credits != 0
	for _, reason := range slices.SortedFunc(maps.Keys(sums), func(a, b string) int { return int(sums[b] - sums[a]) }) {
		v.Reasons = append(v.Reasons, reasonSum{reason, sums[reason]})
	}
}

// usagePage shows a tenant's people the usage of their tenant.
type usagePage struct {
	Tenant management.TenantRecord
	Plan   *management.PlanRecord
	Usage  *usageView
	Limits []limits.Record
}

func (c *call) showUsage() error {
	slug := c.actor.Tenant
	if slug == "" {
		return c.redirectGet("/overview")
	}
	p := usagePage{}
	var err error
	if p.Tenant, err = c.h.manager.Tenant(c.ctx, c.actor, c.h.opts.Keyspace, slug); err != nil {
		return err
	}
	if p.Plan, err = c.plan(p.Tenant.Plan); err != nil {
		return err
	}
	if p.Limits, err = c.tenantLimitStatus(slug); err != nil {
		return err
	}
	if c.h.opts.Usage != nil {
		if p.Usage, err = c.usage(func(r usage.Range) (usage.Report, error) {
			return c.h.opts.Usage.OfTenant(c.ctx, c.actor, c.h.opts.Keyspace, slug, r)
		}); err != nil {
			return err
		}
	}
	return c.render(http.StatusOK, "usage", "Usage", p)
}

func (c *call) redirectGet(p string) error {
	c.w.Header().Set("Location", c.path(p))
	c.w.WriteHeader(http.StatusSeeOther)
	return nil
}

// plan returns the plan with that name, or nil if the configuration has none.
func (c *call) plan(name string) (*management.PlanRecord, error) {
	list, err := c.h.manager.Plans(c.h.opts.Keyspace)
	for i := range list.Data {
		if list.Data[i].Name == name {
			return &list.Data[i], err
		}
	}
	return nil, err
}

// tenantLimitStatus returns the state of a tenant's limits, or nil if it can't be shown.
func (c *call) tenantLimitStatus(slug string) ([]limits.Record, error) {
	list, err := limits.Tenant(c.ctx, c.h.manager, c.actor, c.h.opts.Keyspace, slug)
	var e *management.Error
	if errors.As(err, &e) && e.Status != http.StatusNotFound {
		return nil, nil
	}
	return list.Data, err
}
