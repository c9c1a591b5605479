package usage

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

// Step is how long a line of a report is.
type Step string

// The steps. Days are UTC's.
const (
	ByHour Step = "hour"
	ByDay  Step = "day"
)

// length returns how long a step is.
func (s Step) length() time.Duration {
	if s == ByDay {
		return 24 * time.Hour
	}
	return time.Hour
}

// Group is what a report has separate lines for.
type Group string

// The groups.
const (
	Together  Group = ""
	PerTenant Group = "tenant"
	PerKey    Group = "key"
)

// Report is what was used.
type Report struct {
	// CompleteUntil is up to when everything is counted: a line that ends at this time or before changes no more.
	CompleteUntil *time.Time `json:"complete_until"`
	// Data has a line for each step in which there was any request, oldest first.
	Data []Line `json:"data"`
}

// Line is what was used in one step.
type Line struct {
	// From is its beginning.
	From time.Time `json:"from"`
	// Tenant is set where lines are grouped, Key where they are by key.
	Tenant string `json:"tenant,omitempty"`
	Key    string `json:"key,omitempty"`
	// Requests is Allowed and all of Refused.
	Requests int64 `json:"requests"`
	Allowed  int64 `json:"allowed"`
	// Refused by reason; only those that occurred.
	Refused        map[string]int64 `json:"refused"`
	UpstreamErrors int64            `json:"upstream_errors"`
	Credits        int64            `json:"credits"`
	BytesIn        int64            `json:"bytes_in"`
	BytesOut       int64            `json:"bytes_out"`
	Latency        Latency          `json:"latency_ms"`
}

// Latency is quantiles in milliseconds, of allowed requests; null where there were none.
type Latency struct {
	P50 *float64 `json:"p50"`
	P99 *float64 `json:"p99"`
}

// line is a Line while it is added up.
type line struct {
	from        time.Time
	tenant, key string
	Counts
}

// sums adds up rows to lines.
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

// add adds a row, and says how many lines there are.
func (s *sums) add(r *Row) int {
	from := r.Hour.Truncate(s.step.length()) // of absolute time, whose days are UTC's
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

// report returns the lines in order.
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

// Line returns the line as it is shown.
func (l *line) Line() Line {
	out := Line{
		From: l.from, Tenant: l.tenant, Key: l.key, Requests: l.Requests, Allowed: l.Allowed, Refused: map[string]int64{},
		UpstreamErrors: l.UpstreamErrors, Credits: l.Credits, BytesIn: l.BytesIn, BytesOut: l.BytesOut,
		Latency: Latency{l.quantile(0.5), l.quantile(0.99)},
	}
	for reason, n := range l.Refused {
		if n != 0 {
			out.Refused[gateway.Reason(reason).String()] = n
		}
	}
	return out
}

// quantile returns a quantile in milliseconds, to three digits: more of them would
// pretend to what a histogram does not know.
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
