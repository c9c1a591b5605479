package cluster

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/gateway"
)

// fakeRegistry is a Registry in memory. While its field down is true, reads of the registry fail.
type fakeRegistry struct {
	mu    sync.Mutex
	nodes []Node
	down  bool
}

func (r *fakeRegistry) ReportNode(_ context.Context, n *Node, staleness Staleness) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	reported := Node{Name: n.Name, Seq: n.Seq, ContactAt: now, Deadline: now.Add(staleness.Longest()), Offsets: staleness.Offsets()}
	r.nodes = append(slices.DeleteFunc(r.nodes, func(o Node) bool { return o.Name == n.Name }), reported)
	return nil
}

func (r *fakeRegistry) RemoveNode(context.Context, string, string) error { return nil }

func (r *fakeRegistry) Nodes(context.Context) ([]Node, time.Time, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		return nil, time.Time{}, fmt.Errorf("%w: failed by the test", gateway.ErrStore)
	}
	return slices.Clone(r.nodes), time.Now(), nil
}

func (r *fakeRegistry) setDown(down bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = down
}

// report adds a report of a node that has applied the change seq and accepts keys for a minute.
func (r *fakeRegistry) report(name string, seq int64) {
	_ = r.ReportNode(context.Background(), &Node{Name: name, Seq: seq}, Staleness{Default: time.Minute})
}

// inCluster runs f with a member named "a" and its registry, on a fake clock.
func inCluster(t *testing.T, f func(t *testing.T, a *Member, r *fakeRegistry)) {
	synctest.Test(t, func(t *testing.T) {
		r := &fakeRegistry{}
		a := testkit.Must[*Member](t)(New(Options{Options: gateway.Options{Node: "a"}, Registry: r}))
		defer a.Close(t.Context())
		f(t, a, r)
	})
}

// pending returns the names of the nodes that have not confirmed the change.
func (c Confirmation) pending() (names []string) {
	for _, p := range c.Pending {
		names = append(names, p.Name)
	}
	return names
}

// TestPendingNodesWhileUnreachable checks that Confirm names the nodes of the last read list while the
// registry is unreachable. Their deadlines must be as if they had reported just now.
func TestPendingNodesWhileUnreachable(t *testing.T) {
	inCluster(t, func(t *testing.T, a *Member, r *fakeRegistry) {
		r.setDown(true)
		got := a.Confirm(t.Context(), "default", math.MaxInt64, 0)
		if len(got.Pending) != 1 || got.Pending[0].Name != AnyOther || !got.Pending[0].Deadline.IsZero() {
			t.Errorf("without a list of nodes: %+v", got)
		}
		r.setDown(false)
		r.report("b", 1)
		a.Confirm(t.Context(), "default", 1, 0)
		if n := a.NodesKnown(); n != 1 {
			t.Fatalf("%d nodes known, not 1", n)
		}
		r.setDown(true)
		time.Sleep(4 * time.Second)
		got = a.Confirm(t.Context(), "default", math.MaxInt64, 0)
		if len(got.Pending) != 1 || got.Pending[0].Name != "b" {
			t.Fatalf("after the list was read: %+v", got)
		}
		// Node b may have reported after the list was read, so its deadline is a minute from now.
		if d := time.Until(got.Pending[0].Deadline); d != time.Minute {
			t.Errorf("b stops in %v, not in a minute", d)
		}
	})
}

// TestConfirmWaits checks that Confirm waits for a node that reports, until the node has applied the
// change or the wait is over.
func TestConfirmWaits(t *testing.T) {
	inCluster(t, func(t *testing.T, a *Member, r *fakeRegistry) {
		r.report("b", 4)
		begun := time.Now()
		if got := a.Confirm(t.Context(), "default", 5, 3*time.Second); !slices.Equal(got.pending(), []string{"b"}) {
			t.Errorf("b is not pending: %+v", got)
		}
		if d := time.Since(begun); d < 2900*time.Millisecond || d > 3*time.Second {
			t.Errorf("Confirm waited %v instead of 3 s", d)
		}
		time.AfterFunc(300*time.Millisecond, func() { r.report("b", 5) })
		begun = time.Now()
		if got := a.Confirm(t.Context(), "default", 5, 3*time.Second); len(got.Pending) != 0 || !slices.Equal(got.Confirmed, []string{"a", "b"}) {
			t.Errorf("b has not confirmed: %+v", got)
		}
		if d := time.Since(begun); d < 300*time.Millisecond || d > 400*time.Millisecond {
			t.Errorf("Confirm returned %v after the call, b reported after 300 ms", d)
		}
	})
}

// TestConfirmSkipsUnresponsiveNodes checks that Confirm does not wait for a node without recent reports,
// and omits the node once its deadline has passed. Shortly after the registry was unreachable, old
// reports must not count as a sign that a node is down.
func TestConfirmSkipsUnresponsiveNodes(t *testing.T) {
	inCluster(t, func(t *testing.T, a *Member, r *fakeRegistry) {
		time.Sleep(2 * unresponsiveAfter)
		r.report("b", 4)
		time.Sleep(unresponsiveAfter)
		begun := time.Now()
		if got := a.Confirm(t.Context(), "default", 5, 3*time.Second); !slices.Equal(got.pending(), []string{"b"}) || time.Since(begun) > 0 {
			t.Errorf("an unresponsive node: %+v after %v", got, time.Since(begun))
		}
		a.membership.markFailing()
		if a.Confirm(t.Context(), "default", 5, 3*time.Second); time.Since(begun) < 2900*time.Millisecond {
			t.Errorf("after a failed report, Confirm waited %v instead of 3 s", time.Since(begun))
		}
		time.Sleep(time.Minute)
		if got := a.Confirm(t.Context(), "default", 5, 3*time.Second); len(got.Pending) != 0 {
			t.Errorf("a node whose deadline has passed is pending: %+v", got)
		}
	})
}
