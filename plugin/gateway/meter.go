package gateway

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
