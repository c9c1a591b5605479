package gateway

// Meter returns the value that Options.NewMeter made for the request's key; nil if the key is
// unknown.
func (d *Decision) Meter() any { return d.meter }

// Spent returns how many of its tenant's credits the request has taken so far, including Settle; 0
// if the plan has no credits, and after Done.
func (d *Decision) Spent() int64 {
	if !d.charged || !hasCredits(d.bill.Tenant.Lines) {
		return 0
	}
	return d.bill.Cost - d.shortfall
}
