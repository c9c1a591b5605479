package gateway

import "time"

// Sweep drops every state that is not needed, as a full table does.
func (g *Gateway) Sweep() { g.keys.SweepAll(time.Now()) }

// RunOut makes the timer of a tracked request fire now.
func (d *Decision) RunOut() { d.live.Expire() }
