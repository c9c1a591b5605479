package cluster

import (
	"context"
	"errors"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

// Node is one member of a cluster, as the registry knows it. Times are by the store's clock.
type Node struct {
	// Name is unique among running members; Instance tells a process from the former process
	// of that name.
	Name, Instance string
	// Version names the program as a User-Agent does. ConfigHash tells configurations apart.
	Version, ConfigHash string
	// Seq is the newest change that the node has applied.
	Seq int64
	// LastRead is the newest change that it has read, zero before the first. Where the store
	// holds another change with that number, Seq says nothing about this store. For ReportNode;
	// Nodes does not return it.
	LastRead   gateway.Change
	Ready      bool
	KeysCached int64
	StartedAt  time.Time
	// ContactAt is when the node last reported. Unless it reports again, it accepts no key of
	// any keyspace after Deadline.
	ContactAt, Deadline time.Time
	// Offsets is how much earlier than Deadline that is for single keyspaces, and under "" for
	// those not named; nil where it is the same for all. See Staleness.Offsets.
	Offsets map[string]time.Duration
}

// DeadlineFor returns until when the node accepts keys of a keyspace unless it reports again. For
// "" it is the latest deadline of all keyspaces.
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
var ErrNameTaken = errors.New("another gateway goes by this node's name: give each its own")

// Registry is the part of a shared store that lists its gateways and how far each has followed
// the changes. Its methods may block within ctx and return errors that wrap gateway.ErrStore or
// ErrNameTaken.
type Registry interface {
	// ReportNode stores n, and that the node accepts keys from memory for staleness from now on
	// (n.Deadline and n.Offsets are ignored). Where the store lacks n.LastRead or n.Seq, as after
	// going back to an older state, it stores Seq as 0. A name that another Instance has is taken
	// over once that one has not reported for a while; before, the error is ErrNameTaken.
	ReportNode(ctx context.Context, n *Node, staleness Staleness) error
	// RemoveNode removes a node that ends from the list.
	RemoveNode(ctx context.Context, name, instance string) error
	// Nodes returns the listed nodes, by name, and the time by the store's clock.
	Nodes(ctx context.Context) ([]Node, time.Time, error)
}
