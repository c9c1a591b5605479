package usage

import (
	"encoding/csv"
	"io"
	"strconv"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/transfer"
)

// WriteCSV writes the report as CSV (RFC 4180) with a header. Each reason for a rejection has a column, so that all
// reports have the same columns. The column complete reports whether the line is final.
func (r *Report) WriteCSV(w io.Writer, step Step) error {
	out := csv.NewWriter(w)
	out.UseCRLF = true
	header := []string{"from", "tenant", "key", "requests", "allowed", "refused"}
	for reason := gateway.MissingKey; reason < gateway.NumReasons; reason++ {
		if ofKeys(reason) {
			header = append(header, "refused_"+reason.String())
		}
	}
	header = append(header, "upstream_errors", "credits", "bytes_in", "bytes_out", "latency_ms_p50", "latency_ms_p99", "complete")
	if err := out.Write(header); err != nil {
		return err
	}
	for i := range r.Data {
		if err := out.Write(r.cells(&r.Data[i], step)); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}

// ofKeys reports whether the reason may reject a request with a known key.
func ofKeys(r gateway.Reason) bool {
	switch r {
	case gateway.MissingKey, gateway.MalformedKey, gateway.InvalidKey, gateway.AmbiguousKey, gateway.TooManyFailures:
		return false
	}
	return true
}

func (r *Report) cells(l *Line, step Step) []string {
	n := func(v int64) string { return strconv.FormatInt(v, 10) }
	ms := func(v *float64) string {
		if v == nil {
			return ""
		}
		return strconv.FormatFloat(*v, 'f', -1, 64)
	}
	cells := []string{l.From.UTC().Format(time.RFC3339), transfer.Defuse(l.Tenant), transfer.Defuse(l.Key), n(l.Requests), n(l.Allowed), n(l.Requests - l.Allowed)}
	for reason := gateway.MissingKey; reason < gateway.NumReasons; reason++ {
		if ofKeys(reason) {
			cells = append(cells, n(l.Rejected[reason.String()]))
		}
	}
	complete := r.CompleteUntil != nil && !l.From.Add(step.length()).After(*r.CompleteUntil)
	return append(cells, n(l.UpstreamErrors), n(l.Credits), n(l.BytesIn), n(l.BytesOut), ms(l.Latency.P50), ms(l.Latency.P99), strconv.FormatBool(complete))
}
