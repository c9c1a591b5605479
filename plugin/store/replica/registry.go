package replica

import (
	"context"
	"fmt"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/store/sqlstore"
)

// registry returns where the nodes that share the primary meet.
func (r *Replica) registry() (gateway.Registry, error) {
	if err := r.primaryError(); err != nil {
		return nil, err
	}
	g, ok := r.primary.(gateway.Registry)
	if !ok {
		return nil, fmt.Errorf("%w: the database is no place where gateways meet", gateway.ErrStore)
	}
	return g, nil
}

// ReportNode implements gateway.Registry.
func (r *Replica) ReportNode(ctx context.Context, n *gateway.Node, trust gateway.Staleness) error {
	g, err := r.registry()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := g.ReportNode(ctx, n, trust); err != nil {
		return err
	}
	r.announced.Store(&sqlstore.AnnouncedLease{At: began, Trust: trust})
	r.firstReport.Do(r.primaryChanged.notify)
	return nil
}

// AnnouncedLease implements gateway.Mirror.
func (r *Replica) AnnouncedLease() (at time.Time, trust gateway.Staleness, known bool) {
	p := r.announced.Load()
	if p == nil {
		return at, trust, false
	}
	return p.At, p.Trust, true
}

// RemoveNode implements gateway.Registry. Nobody waits for the node from then on, so what the
// copy holds is not trusted when it starts again, before the primary was heard of.
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

// Nodes implements gateway.Registry.
func (r *Replica) Nodes(ctx context.Context) ([]gateway.Node, time.Time, error) {
	g, err := r.registry()
	if err != nil {
		return nil, time.Time{}, err
	}
	return g.Nodes(ctx)
}

// Unwrap returns the primary, for what only it has.
func (r *Replica) Unwrap() management.Store { return r.primary }
