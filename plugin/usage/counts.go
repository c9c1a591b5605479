package usage

import (
	"net/netip"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

// Counts is what was counted of some requests. The zero value is of none.
type Counts struct {
	Requests       int64
	Allowed        int64
	UpstreamErrors int64
	Credits        int64
	BytesIn        int64
	BytesOut       int64
	// Refused by reason; that of gateway.Allowed is 0.
	Refused [gateway.NumReasons]int64
	// Latency of the allowed ones.
	Latency Histogram
}

// Merge adds the counts of o.
func (c *Counts) Merge(o *Counts) {
	c.Requests += o.Requests
	c.Allowed += o.Allowed
	c.UpstreamErrors += o.UpstreamErrors
	c.Credits += o.Credits
	c.BytesIn += o.BytesIn
	c.BytesOut += o.BytesOut
	for i, n := range o.Refused {
		c.Refused[i] += n
	}
	c.Latency.Merge(&o.Latency)
}

// add counts one request.
func (c *Counts) add(r *Request, took time.Duration) {
	c.Requests++
	c.Credits += r.Credits
	c.BytesIn += r.BytesIn
	c.BytesOut += r.BytesOut
	if r.Reason != gateway.Allowed {
		c.Refused[r.Reason]++
		return
	}
	c.Allowed++
	if r.Elsewhere {
		return
	}
	if r.Status >= 500 {
		c.UpstreamErrors++
	}
	c.Latency.Add(took)
}

// Request is what is counted of one request. The caller owns it and may reuse it.
type Request struct {
	// Began is when it was judged.
	Began time.Time
	// Reason it was refused for; gateway.Allowed where it passed.
	Reason gateway.Reason
	// Observed is what it would have been refused for, had it not been only observed.
	Observed gateway.Reason
	// Status it was answered with.
	Status int
	// Credits taken of the tenant's balance.
	Credits           int64
	BytesIn, BytesOut int64
	// Elsewhere says that it was only judged here: nothing is known of how it was served.
	Elsewhere bool
	// Uncounted says that the request is only to be remembered, if at all.
	Uncounted bool

	// Log says how the key's last requests are remembered. nil: they are not, and what follows is not read.
	Log    *Log
	Method string
	// Path and RawPath as in url.URL, before anything behind the gateway changed them.
	Path, RawPath string
	// Rule is the pattern of a path that the request was judged by; empty where none is known.
	Rule string
	Addr netip.Addr
}
