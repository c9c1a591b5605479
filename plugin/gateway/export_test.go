package gateway

import "time"

// Sweep drops every state that is not needed, as happens when there are too many.
func (g *Gateway) Sweep() { g.keys.SweepAll(time.Now()) }

// RunOut has the timer of a tracked request run out now.
func (d *Decision) RunOut() { d.live.Expire() }
