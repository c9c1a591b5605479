package usage

import (
	"net/netip"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

// Counts holds the counts of some requests. The zero value counts none.
type Counts struct {
	Requests       int64
	Allowed        int64
	UpstreamErrors int64
	Credits        int64
	BytesIn        int64
	BytesOut       int64
	// Rejected counts the rejected requests by reason. Its element gateway.Allowed is always 0.
	Rejected [gateway.NumReasons]int64
	// Latency counts the allowed requests by their latency.
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
	for i, n := range o.Rejected {
		c.Rejected[i] += n
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
		c.Rejected[r.Reason]++
		return
	}
	c.Allowed++
	if r.Verified {
		return
	}
	if r.Status >= 500 {
		c.UpstreamErrors++
	}
	c.Latency.Add(took)
}

// Request is one request to count. The caller owns it and may reuse it.
type Request struct {
	// Began is when the check began.
	Began time.Time
	// Reason is why the request was rejected; gateway.Allowed where it passed.
	Reason gateway.Reason
	// Observed is the reason for which the request would have been rejected without the option observe.
	Observed gateway.Reason
	// Status is the status of the response.
	Status int
	// Credits is how many credits were taken from the tenant's balance.
	Credits           int64
	BytesIn, BytesOut int64
	// Verified reports whether the request was only checked here, and served elsewhere.
	Verified bool
	// Uncounted keeps the request out of the counts. It then only appears among the last requests of its key.
	Uncounted bool

	// Log configures how the key's last requests are kept. nil: not at all, and the fields below are not read.
	Log    *Log
	Method string
	// Path and RawPath are the fields of url.URL, before later handlers changed them.
	Path, RawPath string
	// Rule is the path pattern of the rule that applied; empty where there is none.
	Rule string
	Addr netip.Addr
}
