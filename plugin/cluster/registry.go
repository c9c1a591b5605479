package cluster

import (
	"context"
	"errors"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

// Node is one member of a cluster, as the registry lists it. All times are by the store's clock.
type Node struct {
	// Name is unique among running members. Instance distinguishes a process from former processes of the
	// same name.
	Name, Instance string
	// Version is the version of the node's program, in the form of a User-Agent. ConfigHash differs for
	// different configurations.
	Version, ConfigHash string
	// Seq is the number of the newest change that the node has applied.
	Seq int64
	// LastRead is the newest change that the node has read, or zero before the first. If the store has
	// another change with the number of LastRead, Seq belongs to another state of the store. ReportNode
	// uses LastRead. Nodes does not return it.
	LastRead   gateway.Change
	Ready      bool
	KeysCached int64
	StartedAt  time.Time
	// ContactAt is when the node last reported. If the node does not report again, it accepts no key of
	// any keyspace after Deadline.
	ContactAt, Deadline time.Time
	// Offsets is how much earlier than Deadline the deadline of each keyspace is. The entry "" holds the
	// value for keyspaces that are not named. Offsets is nil if all deadlines are equal. See
	// Staleness.Offsets.
	Offsets map[string]time.Duration
}

// DeadlineFor returns the time after which the node accepts no keys of a keyspace if it does not report
// again. For "", it returns the latest deadline of all keyspaces.
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

// Registry is the part of a shared store that lists its gateways and the change that each gateway has
// applied. The methods may block until ctx ends. Their errors wrap gateway.ErrStore or ErrNameTaken.
type Registry interface {
	// ReportNode stores n, and that the node accepts keys from memory for the time in staleness from now
	// on. It ignores n.Deadline and n.Offsets. If the store lacks n.LastRead or n.Seq, as after a restored
	// backup, ReportNode stores Seq as 0. If another Instance has the name and has reported recently,
	// ReportNode returns ErrNameTaken. Otherwise n takes over the name.
	ReportNode(ctx context.Context, n *Node, staleness Staleness) error
	// RemoveNode removes a node that stops from the registry.
	RemoveNode(ctx context.Context, name, instance string) error
	// Nodes returns the listed nodes, sorted by name, and the present time by the store's clock.
	Nodes(ctx context.Context) ([]Node, time.Time, error)
}
