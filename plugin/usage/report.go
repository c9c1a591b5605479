package usage

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

// Step is the period that one line of a report covers.
type Step string

// The steps of a report. A day is a day of UTC.
const (
	ByHour Step = "hour"
	ByDay  Step = "day"
)

// length returns the step as a duration.
func (s Step) length() time.Duration {
	if s == ByDay {
		return 24 * time.Hour
	}
	return time.Hour
}

// Group states for what a report has separate lines.
type Group string

// Together makes one line of all keys. PerTenant makes one line for each tenant. PerKey makes one line for each key.
const (
	Together  Group = ""
	PerTenant Group = "tenant"
	PerKey    Group = "key"
)

// Report holds the usage of a period.
type Report struct {
	// CompleteUntil is the time up to which all requests are counted: a line that ends by then is final.
	CompleteUntil *time.Time `json:"complete_until"`
	// Data has a line for each step with a request, oldest first.
	Data []Line `json:"data"`
}

// Line holds the usage of one step.
type Line struct {
	// From is the beginning of the step.
	From time.Time `json:"from"`
	// Tenant is set in reports by tenant and by key, Key only in reports by key.
	Tenant string `json:"tenant,omitempty"`
	Key    string `json:"key,omitempty"`
	// Requests is the sum of Allowed and all of Rejected.
	Requests int64 `json:"requests"`
	Allowed  int64 `json:"allowed"`
	// Rejected counts the rejected requests by reason; reasons that did not occur are left out.
	Rejected       map[string]int64 `json:"refused"`
	UpstreamErrors int64            `json:"upstream_errors"`
	Credits        int64            `json:"credits"`
	BytesIn        int64            `json:"bytes_in"`
	BytesOut       int64            `json:"bytes_out"`
	Latency        Latency          `json:"latency_ms"`
}

// Latency holds quantiles of the latency of allowed requests, in milliseconds; null where there were none.
type Latency struct {
	P50 *float64 `json:"p50"`
	P99 *float64 `json:"p99"`
}

// line is a Line under construction.
type line struct {
	from        time.Time
	tenant, key string
	Counts
}

// sums adds rows up to lines.
type sums struct {
	step  Step
	group Group
	lines map[lineID]*line
}

type lineID struct {
	from        int64
	tenant, key string
}

func newSums(step Step, group Group) *sums {
	return &sums{step: step, group: group, lines: map[lineID]*line{}}
}

// add adds a row to the line that it belongs to, and returns how many lines there are now.
func (s *sums) add(r *Row) int {
	from := r.Hour.Truncate(s.step.length()) // Truncate works on UTC
	id := lineID{from: from.Unix()}
	if s.group != Together {
		id.tenant = r.Tenant
	}
	if s.group == PerKey {
		id.key = r.Key
	}
	l := s.lines[id]
	if l == nil {
		l = &line{from: from, tenant: id.tenant, key: id.key}
		s.lines[id] = l
	}
	l.Merge(r.Counts)
	return len(s.lines)
}

// report returns the lines in the order of time, tenant and key.
func (s *sums) report() []Line {
	out := make([]Line, 0, len(s.lines))
	for _, l := range s.lines {
		out = append(out, l.Line())
	}
	slices.SortFunc(out, func(a, b Line) int {
		return cmp.Or(a.From.Compare(b.From), cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Key, b.Key))
	})
	return out
}

// Line returns the finished line.
func (l *line) Line() Line {
	out := Line{
		From: l.from, Tenant: l.tenant, Key: l.key, Requests: l.Requests, Allowed: l.Allowed, Rejected: map[string]int64{},
		UpstreamErrors: l.UpstreamErrors, Credits: l.Credits, BytesIn: l.BytesIn, BytesOut: l.BytesOut,
		Latency: Latency{l.quantile(0.5), l.quantile(0.99)},
	}
	for reason, n := range l.Rejected {
		if n != 0 {
			out.Rejected[gateway.Reason(reason).String()] = n
		}
	}
	return out
}

// quantile returns a quantile in milliseconds with three significant digits, as a histogram is not
// more precise. It returns nil where no request was allowed.
func (l *line) quantile(q float64) *float64 {
	d, ok := l.Latency.Quantile(q)
	if !ok {
		return nil
	}
	ms := float64(d) / float64(time.Millisecond)
	unit := math.Pow10(int(math.Floor(math.Log10(ms))) - 2)
	ms = math.Round(ms/unit) * unit
	ms = math.Round(ms*1e6) / 1e6
	return &ms
}
