package caddymodule

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"sync/atomic"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/usage"
)

// account holds the data of a request for usage.
type account struct {
	usage.Request
	counter *usage.Counter
	// broke reports whether the response was aborted.
	broke bool
}

// countedBody counts the bytes that are read of a body, and records whether the client broke the body off. Another goroutine
// may still read after the request has ended.
type countedBody struct {
	io.ReadCloser
	n      atomic.Int64
	broken atomic.Bool
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n.Add(int64(n))
	if err != nil && err != io.EOF && !errors.Is(err, http.ErrBodyReadAfterClose) {
		b.broken.Store(true)
	}
	return n, err
}

// watchBody makes x.body count the request's body, if there is one.
func (x *exchange) watchBody() {
	if r := x.r; r.ContentLength != 0 && r.Body != nil && x.body.ReadCloser == nil {
		x.body.ReadCloser = r.Body
		r.Body = &x.body
	}
}

// meter begins to count the request for its key. It returns false if the request has no usage to
// count. It must be called before the request is changed.
func (x *exchange) meter() bool {
	c, ok := x.dec.Meter().(*usage.Counter)
	if !ok {
		return false
	}
	a, r := &x.account, x.r
	a.Log, a.Uncounted = x.h.keyspace.Requests, x.h.keyspace.UsageOff
	if a.Log == nil && a.Uncounted {
		return false
	}
	c.Begin()
	a.counter, a.Began = c, x.req.Now
	if a.Log != nil {
		a.Method, a.Path, a.RawPath, a.Addr = r.Method, r.URL.Path, r.URL.RawPath, x.req.Addr
		if rule := x.verdict.Rule; rule != nil {
			a.Rule = rule.Path
		}
	}
	x.watchBody()
	return true
}

// countUsage adds the ended request to the usage of its key.
func (x *exchange) countUsage() {
	a := &x.account
	a.Reason, a.Status = x.dec.Reason, x.w.status
	if x.observed {
		a.Reason, a.Observed = gateway.Allowed, x.dec.Reason
	}
	switch {
	case a.broke && x.w.ended == gateway.Allowed && !x.w.failed && x.r.Context().Err() == nil:
		a.Status = http.StatusBadGateway
	case a.Status == 0:
		a.Status = http.StatusOK // the server writes 200 after the handler
	}
	a.Credits, a.BytesIn, a.BytesOut = x.dec.Spent(), x.body.n.Load(), x.w.wrote
	a.counter.Count(&a.Request)
}

// countVerified counts a request of the API call verify, which another server serves. off reports
// whether usage is not counted.
func countVerified(log *usage.Log, off bool, req *gateway.Request, d *gateway.Decision, method string, u *url.URL) {
	c, ok := d.Meter().(*usage.Counter)
	if !ok || req.Trace != nil || off && log == nil {
		return
	}
	q := usage.Request{
		Began: req.Now, Reason: d.Reason, Status: req.Keyspace.Refusals[d.Reason].Status, Credits: d.Spent(),
		Verified: true, Uncounted: off, Log: log, Method: method, Addr: req.Addr,
	}
	if d.Allowed() {
		q.Status = http.StatusOK
	}
	if u != nil {
		q.Path, q.RawPath = u.Path, u.RawPath
	}
	c.Begin()
	c.Count(&q)
}
