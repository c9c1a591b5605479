package gateway

import "time"

// Sweep drops every state that is not needed, as happens when there are too many.
func (g *Gateway) Sweep() { g.keys.SweepAll(time.Now()) }

// RunOut has the timer of a tracked request run out now.
func (d *Decision) RunOut() { d.live.Expire() }

// NodesKnown returns how many nodes there were when that was last read.
func (g *Gateway) NodesKnown() int {
	p := &g.member.polls
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last == nil {
		return 0
	}
	return len(p.last.nodes)
}
