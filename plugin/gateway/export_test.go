package gateway

import "time"

// Sweep drops the state of every key that is not in use, as a full key table does.
func (g *Gateway) Sweep() { g.keys.SweepAll(time.Now()) }

// RunOut makes the timer of a tracked request fire now.
func (d *Decision) RunOut() { d.live.Expire() }
