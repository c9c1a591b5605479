package management

import (
	"context"
	"time"

	"github.com/keygate-dev/keygate/plugin/cluster"
)

// DefaultWait is how long a change waits for other nodes where its caller does not say.
const DefaultWait = 2 * time.Second

type waitKey struct{}

// WithWait returns a context in which a change waits for up to d until every other node
// acts by it. A change that not all act by then is no failure: it holds here, and there as
// soon as they hear of it.
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

// WithConfirmed returns a context, and where a change made with it notes, before it returns, which
// nodes act by it; one that changes nothing notes who acts by what there is. Of several changes the last one counts.
func WithConfirmed(ctx context.Context) (context.Context, *cluster.Confirmation) {
	where := new(cluster.Confirmation)
	return context.WithValue(ctx, confirmedKey{}, where), where
}

// confirmationOf returns the place for the nodes that confirm a change, nil where the caller asked for none.
func confirmationOf(ctx context.Context) *cluster.Confirmation {
	where, _ := ctx.Value(confirmedKey{}).(*cluster.Confirmation)
	return where
}

// confirmAll says which nodes act by all changes there are to what is of a keyspace.
func (m *Manager) confirmAll(ctx context.Context, keyspace string) cluster.Confirmation {
	if ks, _, err := m.KeyspaceView(keyspace); err == nil {
		keyspace = ks.Name
	}
	return m.engine.Confirm(ctx, keyspace, 0, waitOf(ctx))
}

// receipt says where a key's state holds.
func receipt(k KeyRecord, where cluster.Confirmation) Receipt {
	return Receipt{ID: k.ID, Status: k.Status, Confirmed: where.Confirmed, Pending: PendingNodes(where), Durable: true}
}

// PendingNodes returns those that have not confirmed, as they are told; not nil.
func PendingNodes(where cluster.Confirmation) []PendingNode {
	out := make([]PendingNode, 0, len(where.Pending))
	for _, p := range where.Pending {
		out = append(out, PendingNode{Node: p.Name, StopsBy: TimeOrNull(p.Deadline)})
	}
	return out
}

// KeyReceipt says where a key's state holds, as RevokeKey's receipt does.
func (m *Manager) KeyReceipt(ctx context.Context, a Actor, keyspace, id string) (Receipt, error) {
	k, err := m.Key(ctx, a, keyspace, id)
	if err != nil {
		return Receipt{}, err
	}
	return receipt(k, m.confirmAll(ctx, keyspace)), nil
}
