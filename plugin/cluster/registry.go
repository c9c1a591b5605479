package cluster

import (
	"context"
	"errors"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

// Node is one member of a cluster, as listed in the registry. Times are by the store's clock.
type Node struct {
	// Name is unique among running members. Instance distinguishes a process from former processes
	// of that name.
	Name, Instance string
	// Version is the program's, in the form of a User-Agent. ConfigHash differs for different
	// configurations.
	Version, ConfigHash string
	// Seq is the newest change that the node has applied.
	Seq int64
	// LastRead is the newest change that the node has read, zero before the first. If the store
	// has another change with that number, Seq is not about this store. It is for ReportNode;
	// Nodes does not return it.
	LastRead   gateway.Change
	Ready      bool
	KeysCached int64
	StartedAt  time.Time
	// ContactAt is when the node last reported. Unless it reports again, it accepts no key of any
	// keyspace after Deadline.
	ContactAt, Deadline time.Time
	// Offsets is how much earlier than Deadline the deadlines of single keyspaces are, with "" for
	// those not named; nil if all are equal. See Staleness.Offsets.
	Offsets map[string]time.Duration
}

// DeadlineFor returns until when the node accepts keys of a keyspace, unless it reports again. For
// "", it returns the latest deadline of all keyspaces.
func (n *Node) DeadlineFor(keyspace string) time.Time {
	if keyspace == "" {
		return n.Deadline
	}
	earlier, ok := n.Offsets[keyspace]
	if !ok {
		earlier = n.Offsets[""]
	}
	return n.Deadline.Add(-earlier)
}

// ErrNameTaken means that another running gateway has this node's name.
var ErrNameTaken = errors.New("another running gateway has this node's name: give each gateway its own name")

// Registry is the part of a shared store that lists its gateways and the changes that each has
// applied. Its methods may block within ctx, and return errors that wrap gateway.ErrStore or
// ErrNameTaken.
type Registry interface {
	// ReportNode stores n, and that the node accepts keys from memory for staleness from now on;
	// it ignores n.Deadline and n.Offsets. If the store lacks n.LastRead or n.Seq, as after a
	// restored backup, it stores Seq as 0. If another Instance has the name and has reported
	// recently, the error is ErrNameTaken; otherwise n takes over the name.
	ReportNode(ctx context.Context, n *Node, staleness Staleness) error
	// RemoveNode removes a node that stops.
	RemoveNode(ctx context.Context, name, instance string) error
	// Nodes returns the listed nodes, sorted by name, and the time by the store's clock.
	Nodes(ctx context.Context) ([]Node, time.Time, error)
}
