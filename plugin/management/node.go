package management

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/keygate-dev/keygate/plugin/cluster"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management/audit"
)

// CodeNodeAlive is the code of the error for removing a node that is alive.
const CodeNodeAlive = "node_alive"

// A node counts as alive for aliveFor after its last contact.
const aliveFor = 5 * time.Second

// NodeTx reads and deletes the nodes that share the store, as a part of Tx.
type NodeTx interface {
	// Node returns the node of that name, or gateway.ErrNotFound. now is the time by the clock
	// that wrote the node's times.
	Node(name string) (n *cluster.Node, now time.Time, err error)
	DeleteNode(name string) error
}

// ForgetNode deletes a node that stopped without signing off. Changes no longer wait for its
// confirmation, and the credits that it leased become free. The node may still answer from its own
// data until its deadline, so the caller must know that it has stopped. ForgetNode returns 409
// node_alive for a node that is alive.
func (m *Manager) ForgetNode(ctx context.Context, a Actor, keyspace, name string) error {
	if a.Tenant != "" {
		return NotFound("node")
	}
	if v := m.view(); v != nil && keyspace == "" {
		// A node belongs to no keyspace, so its audit event goes to the first one.
		if names := slices.Sorted(maps.Keys(v.Keyspaces)); len(names) > 0 {
			keyspace = names[0]
		}
	}
	return m.Write(ctx, a, keyspace, func(c *Call) error {
		n, now, err := c.Node(name)
		if errors.Is(err, gateway.ErrNotFound) {
			return NotFound("node")
		}
		if err != nil {
			return err
		}
		if now.Sub(n.ContactAt) < aliveFor {
			return Reject(http.StatusConflict, CodeNodeAlive, "The node %s is alive: its last contact was a few seconds ago. A node that stops in the normal way removes itself.", Clip(name))
		}
		if err := c.DeleteNode(name); err != nil {
			return err
		}
		c.Event = &audit.Event{Action: "node.forgotten", Target: name, Before: audit.Fields{
			"instance": n.Instance, "version": n.Version, "seq": n.Seq, "last_contact": n.ContactAt, "stops_by": n.Deadline,
		}, After: audit.Fields{}}
		return nil
	})
}
