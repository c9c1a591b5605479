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

// CodeNodeAlive refuses to forget a gateway that was heard of just now.
const CodeNodeAlive = "node_alive"

// aliveFor is for how long after its last word a gateway counts as alive.
const aliveFor = 5 * time.Second

// NodeTx reads and removes the gateways that share the store, as a part of Tx.
type NodeTx interface {
	// Node returns one, and the time by the clock that its times are of. ErrNotFound where
	// there is none of that name.
	Node(name string) (n *cluster.Node, now time.Time, err error)
	DeleteNode(name string) error
}

// ForgetNode takes a gateway that ended without saying so from the list: no change waits
// for it any more, and what it leased of credits is free. It may judge by what it holds until
// it stops by itself, so this is for one that is known to be gone. The refusal of one that is
// alive is a 409.
func (m *Manager) ForgetNode(ctx context.Context, a Actor, keyspace, name string) error {
	if a.Tenant != "" {
		return NotFound("node")
	}
	if v := m.view(); v != nil && keyspace == "" {
		// It is no keyspace's; its event stands in the first.
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
			return Reject(http.StatusConflict, CodeNodeAlive, "The node %s is alive: it was heard of just now. One that is stopped forgets itself.", Clip(name))
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
