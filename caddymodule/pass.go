package caddymodule

import (
	"context"
	"errors"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keygate-dev/keygate/caddymodule/redact"
	"github.com/keygate-dev/keygate/plugin/gateway"
)

// errKeyEnded is the cause of a canceled request context if the request's key is no longer
// accepted.
var errKeyEnded = errors.New("API key is no longer valid")

// pass sends an allowed request to the next handler, and ends the request early if its key is no
// longer accepted.
func (x *exchange) pass(log *redact.RequestLog, next caddyhttp.Handler) (err error) {
	parent := x.r.Context()
	if rule := x.verdict.Rule; rule != nil && (rule.Refund || rule.Actual != "") {
		x.watchBody()
		if rule.Actual != "" {
			parent, x.w.drains = context.WithoutCancel(parent), true
		}
	}
	ctx, cancel := context.WithCancelCause(parent)
	x.cancel = cancel
	defer cancel(nil)
	if x.w.drains {
		defer x.drain(ctx)()
	}
	r := x.r.WithContext(ctx)
	if !x.observed {
		x.dec.TrackIn(&x.live, x.end)
	}

	var before headerNames
	before.note(x.w.Header())
	finished := false
	defer func() {
		if finished {
			return
		}
		// The next handler panicked. Either the response was aborted, or the proxy could no longer
		// write because the request was ended just when the upstream answered.
		if !x.w.close() {
			x.account.broke = true
			x.settleCost(http.StatusBadGateway)
			return
		}
		if p := recover(); p != http.ErrAbortHandler { //nolint:errorlint // as net/http compares it
			panic(p)
		}
		err = x.refuseEnded(&before)
	}()
	err = next.ServeHTTP(&x.w, r)
	finished = true
	if x.w.close() {
		return x.refuseEnded(&before)
	}
	if err == nil && x.w.status == 0 {
		// No handler wrote anything, so the server will write the header after this handler.
		x.writeHeaders()
	}
	// The cost is corrected before the error is answered, so that the response shows the corrected
	// cost.
	x.settleCost(statusOf(err, x.w.status))
	return log.ServeError(&x.w, x.r, err)
}

// refuseEnded rejects a request whose key stopped being accepted before the response began. It
// keeps only the header fields in before; the others are the upstream's.
func (x *exchange) refuseEnded(before *headerNames) error {
	before.keep(x.w.Header())
	// The state of limits is shown only for valid keys.
	x.dec.Reason, x.dec.Outcome.N = x.w.ended, 0
	x.shown.reason = x.w.ended
	if x.r.ProtoMajor == 1 {
		// Reading was stopped in the middle of the request, so the connection can't be reused. An
		// HTTP/2 connection stays open, because other requests use it too.
		x.w.Header().Set("Connection", "close")
	}
	return x.refuse(&x.w, x.w.ended)
}

// end ends the request because its key is no longer accepted. It runs on another goroutine than
// the handler.
func (x *exchange) end(reason gateway.Reason) {
	x.w.end(reason)
	x.cancel(errKeyEnded)
}

// statusOf returns the status of a response: the written one, or else the error's.
func statusOf(err error, written int) int {
	if written != 0 || err == nil {
		return written
	}
	var he caddyhttp.HandlerError
	if errors.As(err, &he) && he.StatusCode != 0 {
		return he.StatusCode
	}
	return http.StatusInternalServerError
}
