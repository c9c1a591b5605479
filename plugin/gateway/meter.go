package gateway

// A key in use may carry something of somebody else's, who counts what its requests do:
// found with the key, it needs no look-up of its own. It is made by Options.NewMeter when
// a key comes into use, and dropped with the key's state, of which it is not told: whoever made it
// must not depend on it being kept, and a key may have several, one after the other.

// Meter returns what Options.NewMeter made for the request's key; nil where the key is not known.
func (d *Decision) Meter() any { return d.meter }

// Spent returns what the request has taken of its tenant's credits so far, after Settle;
// 0 where its plan knows no credits, and after Done.
func (d *Decision) Spent() int64 {
	if !d.charged || !hasCredits(d.bill.Tenant.Lines) {
		return 0
	}
	return d.bill.Cost - d.shortfall
}
