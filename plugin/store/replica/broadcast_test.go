package replica_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/store/replica"
)

// bus carries revocations between the nodes of a test. It keeps a revocation even after a node
// retracted it.
type bus struct {
	mu        sync.Mutex
	published []management.Revocation
	more      chan struct{}
	retracted int
}

func newBus() *bus { return &bus{more: make(chan struct{})} }

// busReader is the Broadcaster with which one node sends and receives on a bus.
type busReader struct {
	*bus
	// position counts the published revocations that the node received. It is -1 while the node is not
	// subscribed.
	position int
}

func (e *busReader) setPosition(n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.position = n
}

func (w *bus) Publish(_ context.Context, _ replica.ClusterID, r management.Revocation) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.ContainsFunc(w.published, func(o management.Revocation) bool { return o.Action == r.Action && o.ID == r.ID && o.At.Equal(r.At) }) {
		w.published = append(w.published, r)
		w.wake()
	}
	return nil
}

func (w *bus) wake() {
	close(w.more)
	w.more = make(chan struct{})
}

func (w *bus) Retract(replica.ClusterID, management.Revocation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.retracted++
}

func (e *busReader) Subscribe(ctx context.Context, _ replica.ClusterID, f func([]management.Revocation) error) error {
	e.setPosition(0)
	defer e.setPosition(-1)
	for {
		e.mu.Lock()
		list, more := slices.Clone(e.published[e.position:]), e.more
		e.mu.Unlock()
		if err := f(list); err != nil {
			return err
		}
		e.mu.Lock()
		e.position += len(list)
		e.mu.Unlock()
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// replay makes the node receive all published revocations again.
func (e *busReader) replay() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.position = 0
	e.wake()
}

// nodesOnBus starts n nodes on one primary. The nodes broadcast revocations through w.
func nodesOnBus(t *testing.T, w *bus, n int) (nodes []*node) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "primary.db")
	for range n {
		nodes = append(nodes, newNode(t, path))
	}
	for _, n := range nodes {
		n.stop()
		n.broadcaster = &busReader{bus: w, position: -1}
		n.start()
	}
	return nodes
}

func setDown(nodes []*node, yes bool) {
	for _, n := range nodes {
		n.down.Store(yes)
	}
}

func waitAllSynced(nodes []*node) {
	for _, n := range nodes {
		n.waitSynced()
	}
}

// waitReceived waits until the node has received all published revocations.
func (n *node) waitReceived() {
	n.t.Helper()
	e := n.broadcaster.(*busReader)
	testkit.Eventually(n.t, "the node receives all published revocations", func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.position == len(e.published)
	})
}

// TestBroadcastToOthers revokes a key on one node while the primary is unreachable, and checks that the
// other node rejects the key.
func TestBroadcastToOthers(t *testing.T) {
	t.Parallel()
	nodes := nodesOnBus(t, newBus(), 2)
	a, b := nodes[0], nodes[1]
	a.tenant("a")
	id, full := a.key("a")
	a.waitSynced()
	b.waitSynced()
	b.want(full, gateway.Allowed)
	a.down.Store(true)
	b.down.Store(true)
	if r, err := a.RevokeKey(ctxOf(t), ada, ks, id); err != nil || r.Durable {
		t.Fatal(r, err)
	}
	a.want(full, gateway.RevokedKey)
	testkit.Eventually(t, "the other node rejects the key", func() bool { return b.reasonFor(full) == gateway.RevokedKey })
	a.down.Store(false)
	b.down.Store(false)
	a.waitSynced()
	b.waitSynced()
	a.want(full, gateway.RevokedKey)
	b.want(full, gateway.RevokedKey)
}

// TestSetBroadcaster checks that the broadcaster can be replaced while the replica runs, as when a
// reload configures Redis.
func TestSetBroadcaster(t *testing.T) {
	t.Parallel()
	w := newBus()
	nodes := nodesOnBus(t, w, 2)
	a, b := nodes[0], nodes[1]
	a.tenant("a")
	id, full := a.key("a")
	waitAllSynced(nodes)
	first := b.broadcaster.(*busReader)
	b.waitReceived()
	b.r.SetBroadcaster(nil)
	testkit.Eventually(t, "the subscription ends", func() bool {
		first.mu.Lock()
		defer first.mu.Unlock()
		return first.position < 0
	})
	setDown(nodes, true)
	if r, err := a.RevokeKey(ctxOf(t), ada, ks, id); err != nil || r.Durable {
		t.Fatal(r, err)
	}
	b.want(full, gateway.Allowed)
	b.broadcaster = &busReader{bus: w, position: -1}
	b.r.SetBroadcaster(b.broadcaster)
	testkit.Eventually(t, "the other node rejects the key", func() bool { return b.reasonFor(full) == gateway.RevokedKey })
}

// TestReversedAfterBroadcast disables a key and enables it again. The disabling was published and
// written to the primary, and retractions fail. A node that receives the disabling late must not apply
// it again.
func TestReversedAfterBroadcast(t *testing.T) {
	t.Parallel()
	w := newBus()
	nodes := nodesOnBus(t, w, 3)
	a, b, c := nodes[0], nodes[1], nodes[2]
	a.tenant("a")
	a.tenant("b")
	id, full := a.key("a")
	_, other := a.key("b")
	waitAllSynced(nodes)
	setDown(nodes, true)
	c.stop()
	if r, err := a.DisableKey(ctxOf(t), ada, ks, id); err != nil || r.Durable {
		t.Fatal(r, err)
	}
	if _, err := a.SuspendTenant(ctxOf(t), ada, ks, "b"); !acknowledged(err) {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the other node rejects both keys", func() bool {
		return b.reasonFor(full) == gateway.DisabledKey && b.reasonFor(other) == gateway.TenantInactive
	})
	setDown(nodes, false)
	waitAllSynced(nodes[:2])
	if r, err := b.EnableKey(ctxOf(t), ada, ks, id); err != nil || !r.Durable {
		t.Fatal(r, err)
	}
	if _, err := b.ActivateTenant(ctxOf(t), ada, ks, "b"); err != nil {
		t.Fatal(err)
	}
	waitAllSynced(nodes[:2])
	expectAccepted := func(n *node) {
		t.Helper()
		n.waitReceived()
		n.want(full, gateway.Allowed)
		n.want(other, gateway.Allowed)
		if p := n.r.Status().Pending; p != 0 {
			t.Errorf("%d revocations are pending", p)
		}
	}
	// A node that was stopped meanwhile receives the old messages when it starts. A node that restarts
	// receives them too.
	c.start()
	c.waitSynced()
	expectAccepted(c)
	b.restart()
	b.waitSynced()
	expectAccepted(b)
	// The primary becomes unreachable again, and all nodes receive the old messages once more.
	setDown(nodes, true)
	for _, n := range nodes {
		n.broadcaster.(*busReader).replay()
		expectAccepted(n)
	}
	if w.retracted == 0 {
		t.Error("no revocation was retracted")
	}

	// A new revocation applies on all nodes.
	if _, err := c.DisableKey(ctxOf(t), ada, ks, id); err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		testkit.Eventually(t, "the key is rejected", func() bool { return n.reasonFor(full) == gateway.DisabledKey })
	}
	setDown(nodes, false)
	waitAllSynced(nodes)
	for _, n := range nodes {
		n.want(full, gateway.DisabledKey)
		n.want(other, gateway.Allowed)
	}
}

// TestBroadcastWhileStopped publishes a revocation while another node is stopped, and checks that the
// stopped node receives the revocation when it starts, although the primary is unreachable.
func TestBroadcastWhileStopped(t *testing.T) {
	t.Parallel()
	w := newBus()
	nodes := nodesOnBus(t, w, 2)
	a, b := nodes[0], nodes[1]
	a.tenant("a")
	id, full := a.key("a")
	waitAllSynced(nodes)
	setDown(nodes, true)
	b.stop()
	if _, err := a.RevokeKey(ctxOf(t), ada, ks, id); err != nil {
		t.Fatal(err)
	}
	a.stop()
	b.start()
	testkit.Eventually(t, "the key is rejected", func() bool { return b.reasonFor(full) == gateway.RevokedKey })
	// The node that accepted the revocation stays stopped. The other node writes the revocation to the
	// primary, with the original actor.
	setDown(nodes, false)
	b.waitSynced()
	if err := b.primary.Store.View(ctxOf(t), func(tx management.Tx) error {
		rows, err := tx.Audit(audit.Query{Keyspace: ks, Key: id})
		if err == nil && (len(rows) != 2 || rows[0].Action != management.KeyRevoked || rows[0].Via != ada.Via) {
			t.Errorf("events: %+v", rows)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// TestDecidedInOrder disables a key on a node while the primary is unreachable. The test enables the key
// just when the primary answers again, before the node has delivered the disabling. The later decision,
// enabled, must win.
func TestDecidedInOrder(t *testing.T) {
	t.Parallel()
	n, id, full := newNodeWithKey(t)
	for range 10 {
		n.down.Store(true)
		if r, err := n.DisableKey(ctxOf(t), ada, ks, id); err != nil || r.Durable {
			t.Fatal(r, err)
		}
		n.down.Store(false)
		testkit.Eventually(t, "the key is enabled", func() bool {
			_, err := n.EnableKey(ctxOf(t), ada, ks, id)
			if err != nil && !errors.Is(err, gateway.ErrStore) {
				t.Fatal(err)
			}
			return err == nil
		})
		n.waitSynced()
		n.want(full, gateway.Allowed)
	}
}
