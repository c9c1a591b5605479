package replica_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/store/replica"
)

// wire carries what nodes of a test tell each other. What was told stays, also where it is withdrawn.
type wire struct {
	mu        sync.Mutex
	told      []management.Revocation
	more      chan struct{}
	withdrawn int
}

func newWire() *wire { return &wire{more: make(chan struct{})} }

// ear is one node's end of a wire.
type ear struct {
	*wire
	// heard is how much of what was told it has heard; -1 while it hears nothing.
	heard int
}

func (e *ear) hears(n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.heard = n
}

func (w *wire) Tell(_ context.Context, _ replica.Kin, r management.Revocation) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.ContainsFunc(w.told, func(o management.Revocation) bool { return o.Action == r.Action && o.ID == r.ID && o.At.Equal(r.At) }) {
		w.told = append(w.told, r)
		w.wake()
	}
	return nil
}

func (w *wire) wake() {
	close(w.more)
	w.more = make(chan struct{})
}

func (w *wire) Withdraw(replica.Kin, management.Revocation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.withdrawn++
}

func (e *ear) Hear(ctx context.Context, _ replica.Kin, f func([]management.Revocation) error) error {
	e.hears(0)
	defer e.hears(-1)
	for {
		e.mu.Lock()
		list, more := slices.Clone(e.told[e.heard:]), e.more
		e.mu.Unlock()
		if err := f(list); err != nil {
			return err
		}
		e.mu.Lock()
		e.heard += len(list)
		e.mu.Unlock()
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// again has it hear all of it once more.
func (e *ear) again() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.heard = 0
	e.wake()
}

// heralded starts nodes on one truth, that tell each other by w.
func heralded(t *testing.T, w *wire, n int) (nodes []*node) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "truth.db")
	for range n {
		nodes = append(nodes, newNode(t, path))
	}
	for _, n := range nodes {
		n.stop()
		n.herald = &ear{wire: w}
		n.start()
	}
	return nodes
}

func down(nodes []*node, yes bool) {
	for _, n := range nodes {
		n.down.Store(yes)
	}
}

func settle(nodes []*node) {
	for _, n := range nodes {
		n.settled()
	}
}

// hears waits until a node has heard all that is told.
func (n *node) hears() {
	n.t.Helper()
	e := n.herald.(*ear)
	eventually(n.t, "all that is told is heard", func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.heard == len(e.told)
	})
}

// TestToldToOthers refuses a key at one node while the truth is away for both.
func TestToldToOthers(t *testing.T) {
	t.Parallel()
	nodes := heralded(t, newWire(), 2)
	a, b := nodes[0], nodes[1]
	a.tenant("a")
	id, full := a.key("a")
	a.settled()
	b.settled()
	b.want(full, gateway.Allowed)
	a.down.Store(true)
	b.down.Store(true)
	if r, err := a.RevokeKey(ctxOf(t), ada, ks, id); err != nil || r.Durable {
		t.Fatal(r, err)
	}
	a.want(full, gateway.RevokedKey)
	eventually(t, "the other node refuses it", func() bool { return b.judge(full) == gateway.RevokedKey })
	a.down.Store(false)
	b.down.Store(false)
	a.settled()
	b.settled()
	a.want(full, gateway.RevokedKey)
	b.want(full, gateway.RevokedKey)
}

// TestTakenBackAfterItWasTold enables a key again after its disabling was told, written, and can't be
// withdrawn: who hears of it late refuses nothing.
func TestTakenBackAfterItWasTold(t *testing.T) {
	t.Parallel()
	w := newWire()
	nodes := heralded(t, w, 3)
	a, b, c := nodes[0], nodes[1], nodes[2]
	a.tenant("a")
	a.tenant("b")
	id, full := a.key("a")
	_, other := a.key("b")
	settle(nodes)
	down(nodes, true)
	c.stop()
	if r, err := a.DisableKey(ctxOf(t), ada, ks, id); err != nil || r.Durable {
		t.Fatal(r, err)
	}
	if _, err := a.SuspendTenant(ctxOf(t), ada, ks, "b"); !acknowledged(err) {
		t.Fatal(err)
	}
	eventually(t, "the other node refuses both", func() bool {
		return b.judge(full) == gateway.DisabledKey && b.judge(other) == gateway.TenantInactive
	})
	down(nodes, false)
	settle(nodes[:2])
	if r, err := b.EnableKey(ctxOf(t), ada, ks, id); err != nil || !r.Durable {
		t.Fatal(r, err)
	}
	if _, err := b.ActivateTenant(ctxOf(t), ada, ks, "b"); err != nil {
		t.Fatal(err)
	}
	settle(nodes[:2])
	fine := func(n *node) {
		t.Helper()
		n.hears()
		n.want(full, gateway.Allowed)
		n.want(other, gateway.Allowed)
		if p := n.r.Status().Pending; p != 0 {
			t.Errorf("%d refusals are pending", p)
		}
	}
	// One that was not there hears of it now, and one that starts again.
	c.start()
	c.settled()
	fine(c)
	b.restart()
	b.settled()
	fine(b)
	// The truth is away again, and word of it comes once more.
	down(nodes, true)
	for _, n := range nodes {
		n.herald.(*ear).again()
		fine(n)
	}
	if w.withdrawn == 0 {
		t.Error("nothing was withdrawn")
	}

	// What is refused now is refused.
	if _, err := c.DisableKey(ctxOf(t), ada, ks, id); err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		eventually(t, "it is refused", func() bool { return n.judge(full) == gateway.DisabledKey })
	}
	down(nodes, false)
	settle(nodes)
	for _, n := range nodes {
		n.want(full, gateway.DisabledKey)
		n.want(other, gateway.Allowed)
	}
}

// TestToldWhileGone has a node that is not running when a refusal is told, and starts while the
// truth is away.
func TestToldWhileGone(t *testing.T) {
	t.Parallel()
	w := newWire()
	nodes := heralded(t, w, 2)
	a, b := nodes[0], nodes[1]
	a.tenant("a")
	id, full := a.key("a")
	settle(nodes)
	down(nodes, true)
	b.stop()
	if _, err := a.RevokeKey(ctxOf(t), ada, ks, id); err != nil {
		t.Fatal(err)
	}
	a.stop()
	b.start()
	eventually(t, "it is refused", func() bool { return b.judge(full) == gateway.RevokedKey })
	// The one that took the revocation never comes back: it is written all the same, as done by who did it.
	down(nodes, false)
	b.settled()
	if err := b.truth.Store.View(ctxOf(t), func(tx management.Tx) error {
		rows, err := tx.Audit(management.AuditQuery{Keyspace: ks, Key: id})
		if err == nil && (len(rows) != 2 || rows[0].Action != management.KeyRevoked || rows[0].Via != ada.Via) {
			t.Errorf("events: %+v", rows)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// TestDecidedInOrder enables a key at a node that still holds its disabling, just as the truth is
// back: the later decision holds.
func TestDecidedInOrder(t *testing.T) {
	t.Parallel()
	n, id, full := newNodeWithKey(t)
	for range 10 {
		n.down.Store(true)
		if r, err := n.DisableKey(ctxOf(t), ada, ks, id); err != nil || r.Durable {
			t.Fatal(r, err)
		}
		n.down.Store(false)
		eventually(t, "changes are taken", func() bool {
			_, err := n.EnableKey(ctxOf(t), ada, ks, id)
			if err != nil && !errors.Is(err, gateway.ErrStore) {
				t.Fatal(err)
			}
			return err == nil
		})
		n.settled()
		n.want(full, gateway.Allowed)
	}
}
