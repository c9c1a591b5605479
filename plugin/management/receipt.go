package management

import (
	"context"
	"time"

	"github.com/keygate-dev/keygate/plugin/cluster"
)

// DefaultWait is how long a change waits for the confirmation of other nodes, unless the caller
// sets another time.
const DefaultWait = 2 * time.Second

type waitKey struct{}

// WithWait returns a context in which a change waits up to d until every other node has confirmed
// it. A change that some nodes have not confirmed by then is no failure: this node has applied it,
// and the others apply it as soon as they learn of it.
func WithWait(ctx context.Context, d time.Duration) context.Context {
	return context.WithValue(ctx, waitKey{}, d)
}

func waitOf(ctx context.Context) time.Duration {
	if d, ok := ctx.Value(waitKey{}).(time.Duration); ok {
		return d
	}
	return DefaultWait
}

type confirmedKey struct{}

// WithConfirmed returns a context and a Confirmation. A change with that context sets the
// Confirmation, before it returns, to the nodes that have applied the change. A call that changes
// nothing sets it to the nodes that have applied every change so far. The last of several changes
// counts.
func WithConfirmed(ctx context.Context) (context.Context, *cluster.Confirmation) {
	where := new(cluster.Confirmation)
	return context.WithValue(ctx, confirmedKey{}, where), where
}

// confirmationOf returns the Confirmation that WithConfirmed added to ctx; nil for none.
func confirmationOf(ctx context.Context) *cluster.Confirmation {
	where, _ := ctx.Value(confirmedKey{}).(*cluster.Confirmation)
	return where
}

// confirmAll returns which nodes have applied every change of a keyspace so far.
func (m *Manager) confirmAll(ctx context.Context, keyspace string) cluster.Confirmation {
	if ks, _, err := m.KeyspaceView(keyspace); err == nil {
		keyspace = ks.Name
	}
	return m.engine.Confirm(ctx, keyspace, 0, waitOf(ctx))
}

// receipt returns the receipt of a change to a key.
func receipt(k KeyRecord, where cluster.Confirmation) Receipt {
	return Receipt{ID: k.ID, Status: k.Status, Confirmed: where.Confirmed, Pending: PendingNodes(where), Durable: true}
}

// PendingNodes returns the nodes that have not confirmed a change; never nil.
func PendingNodes(where cluster.Confirmation) []PendingNode {
	out := make([]PendingNode, 0, len(where.Pending))
	for _, p := range where.Pending {
		out = append(out, PendingNode{Node: p.Name, StopsBy: TimeOrNull(p.Deadline)})
	}
	return out
}

// KeyReceipt returns a receipt of the key's current state, as RevokeKey does for a change.
func (m *Manager) KeyReceipt(ctx context.Context, a Actor, keyspace, id string) (Receipt, error) {
	k, err := m.Key(ctx, a, keyspace, id)
	if err != nil {
		return Receipt{}, err
	}
	return receipt(k, m.confirmAll(ctx, keyspace)), nil
}
