package replica

import (
	"context"
	"fmt"
	"time"

	"github.com/keygate-dev/keygate/plugin/cluster"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
)

// registry returns the primary's registry of nodes.
func (r *Replica) registry() (cluster.Registry, error) {
	if err := r.primaryError(); err != nil {
		return nil, err
	}
	g, ok := r.primary.(cluster.Registry)
	if !ok {
		return nil, fmt.Errorf("%w: the database has no registry of gateways", gateway.ErrStore)
	}
	return g, nil
}

// ReportNode implements cluster.Registry.
func (r *Replica) ReportNode(ctx context.Context, n *cluster.Node, staleness cluster.Staleness) error {
	g, err := r.registry()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := g.ReportNode(ctx, n, staleness); err != nil {
		return err
	}
	r.announced.Store(&AnnouncedLease{At: began, Trust: staleness})
	r.firstReport.Do(r.primaryChanged.notify)
	return nil
}

// AnnouncedLease implements cluster.Mirror. known is false if this node has neither announced nor
// stored a lease.
func (r *Replica) AnnouncedLease() (at time.Time, staleness cluster.Staleness, known bool) {
	p := r.announced.Load()
	if p == nil {
		return at, staleness, false
	}
	return p.At, p.Trust, true
}

// RemoveNode implements cluster.Registry. After RemoveNode the cluster no longer waits for the node's
// confirmations of changes. Therefore the node's next start does not use the copy until the primary
// has answered.
func (r *Replica) RemoveNode(ctx context.Context, name, instance string) error {
	g, err := r.registry()
	if err != nil {
		return err
	}
	if err := g.RemoveNode(ctx, name, instance); err != nil {
		return err
	}
	r.removed.Store(true)
	return nil
}

// Nodes implements cluster.Registry.
func (r *Replica) Nodes(ctx context.Context) ([]cluster.Node, time.Time, error) {
	g, err := r.registry()
	if err != nil {
		return nil, time.Time{}, err
	}
	return g.Nodes(ctx)
}

// Unwrap returns the primary. Callers use Unwrap for optional interfaces that only the primary
// implements.
func (r *Replica) Unwrap() management.Store { return r.primary }
