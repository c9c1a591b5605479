package caddymodule

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

// A client must not avoid the actual cost of a request by leaving before the upstream has stated it. So if the cost line has
// actual, the response is read further after the client has left, for drainTime and drainBytes at most. The process looks
// every exitInterval whether it exits, because such a request must not delay the exit.
const (
	drainTime    = 30 * time.Second
	drainBytes   = 8 << 20
	exitInterval = 100 * time.Millisecond
)

// errClientLeft is the cause of a canceled request whose client has left and whose actual cost did not come in time.
var errClientLeft = errors.New("the client has left")

// actualInvalid counts stated costs that are no whole number.
var actualInvalid = prometheus.NewCounterVec(prometheus.CounterOpts{
	Namespace: "keygate",
	Name:      "actual_invalid_total",
	Help:      "Costs in the header or trailer of the option actual that are no whole number of at least 0.",
}, []string{"keyspace"})

// drain cancels ctx when the client has left for drainTime, or has left and the process exits. The caller calls stop at the
// end of the request.
func (x *exchange) drain(ctx context.Context) (stop func()) {
	end := context.AfterFunc(x.r.Context(), func() {
		tick := time.NewTicker(exitInterval)
		defer tick.Stop()
		for left := time.Now(); time.Since(left) < drainTime && !caddy.Exiting(); {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
		x.cancel(errClientLeft)
	})
	return func() {
		x.w.gaveUp = x.w.gaveUp || errors.Is(context.Cause(ctx), errClientLeft)
		end()
	}
}

// discard takes the place of a write to a client that has left.
func (w *responseWriter) discard(p []byte) (int, error) {
	if w.drained += int64(len(p)); w.drained > drainBytes {
		w.gaveUp = true
		return 0, errClientLeft
	}
	return len(p), nil
}

// settleCost corrects the cost of the request: to 0 if the upstream failed and the cost line has refund, or to the cost that
// the upstream states. A failure that the client caused is no refund: it left, or broke its own body off.
func (x *exchange) settleCost(status int) {
	rule := x.verdict.Rule
	if rule == nil || x.dec.Reason != gateway.Allowed {
		return
	}
	left := x.w.failed || x.body.broken.Load() || x.r.Context().Err() != nil
	if rule.Refund && status >= 500 && x.w.ended == gateway.Allowed && !left {
		x.dec.Settle(0)
		return
	}
	if rule.Actual == "" {
		return
	}
	text := x.actual
	hdr := x.w.Header()
	for _, name := range []string{rule.Actual, http.TrailerPrefix + rule.Actual} {
		if v := hdr[name]; len(v) > 0 {
			text = v[0]
			delete(hdr, name)
		}
	}
	if text == "" {
		if rule.Max > 0 && (x.w.gaveUp || left && status >= 500) {
			x.dec.Settle(rule.Max)
		}
		return
	}
	cost, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil || cost < 0 {
		actualInvalid.WithLabelValues(x.h.keyspace.Name).Inc()
		if skipped, ok := x.h.paths.due("actual"); ok {
			x.h.paths.log.Warn("the upstream stated an actual cost that is no whole number, so the announced cost stays: correct the upstream, or the header that `actual` names",
				"header", rule.Actual, "value", x.h.paths.clean(text[:min(len(text), maxLoggedPath)]), "key_id", x.dec.Key.ID, "more_since_last_line", skipped)
		}
		return
	}
	x.dec.Settle(cost)
}
