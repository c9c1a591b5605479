package management

import (
	"context"
	"crypto/ed25519"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/management/events"
)

// checkpointKey returns the key that this node signs checkpoints of the store with; nil for none.
func (m *Manager) checkpointKey(store string) (ed25519.PrivateKey, error) {
	if m.signer == nil {
		return nil, nil
	}
	s := m.signer()
	if s == nil {
		return nil, nil
	}
	return s.CheckpointKey(store)
}

// signedCheckpoint returns the position of the chain as the transaction sees it, for a keyspace or, with "", all.
func (m *Manager) signedCheckpoint(tx Tx, keyspace string) (h audit.Checkpoint, err error) {
	store, _, err := tx.Identity()
	if err != nil {
		return h, err
	}
	if h, err = audit.NewCheckpoint(tx, store, keyspace, m.Clock()); err != nil {
		return h, err
	}
	key, err := m.checkpointKey(store)
	if err != nil {
		return h, err
	}
	h.Sign(key)
	return h, nil
}

// Checkpoint returns the position of the audit chain now. An empty keyspace counts the events of all. 403 for an
// actor of one tenant, which could count the events of others by it.
func (m *Manager) Checkpoint(ctx context.Context, a Actor, keyspace string) (h audit.Checkpoint, err error) {
	if err := a.RequireOperator("see the head of the audit chain, which is one over all tenants"); err != nil {
		return h, err
	}
	err = m.store.View(ctx, func(tx Tx) error {
		h, err = m.signedCheckpoint(tx, keyspace)
		return err
	})
	return h, err
}

// errPublished reports that another node has published a checkpoint meanwhile.
var errPublished = errors.New("another node has published a checkpoint")

// PublishCheckpoint publishes the position of the audit chain in the log and as an event of each configured keyspace. It
// does so where the chain has grown since the last time, and that is at least every ago. Of the nodes that share a
// store one publishes. It also checks that the checkpoint of the last time is still in the chain, and logs an error where it is not.
func (m *Manager) PublishCheckpoint(ctx context.Context, every time.Duration) error {
	v := m.view()
	if v == nil {
		return nil
	}
	now := m.Clock()
	var last audit.PublishedCheckpoint
	var list []audit.Checkpoint // of the store, then of its keyspaces in the order of names
	var lost string
	err := m.store.View(ctx, func(tx Tx) (err error) {
		list, lost = nil, ""
		if last, err = tx.PublishedCheckpoint(); err != nil || now.Sub(last.At).Abs() < every {
			return err
		}
		if lost, err = audit.Lost(tx, last); err != nil {
			return err
		}
		for _, name := range append([]string{""}, slices.Sorted(maps.Keys(v.Keyspaces))...) {
			h, err := m.signedCheckpoint(tx, name)
			if err != nil {
				return err
			}
			if h.IsOf(last) {
				return nil
			}
			list = append(list, h)
		}
		return nil
	})
	if err != nil || len(list) == 0 {
		return err
	}
	var published []*events.Batch
	err = m.store.Update(ctx, func(tx Tx) error {
		published = nil
		latest, err := tx.LockPublishedCheckpoint()
		if err != nil {
			return err
		}
		if latest.Seq != last.Seq || !latest.At.Equal(last.At) {
			return errPublished
		}
		next, err := list[0].Published(now)
		if err != nil {
			return err
		}
		for _, h := range list[1:] {
			b := m.newCall(tx, System, v.Keyspaces[*h.Keyspace], v).Events
			if err := publishCheckpoint(b, h); err != nil {
				return err
			}
			published = append(published, b)
		}
		return tx.SetPublishedCheckpoint(next)
	})
	if errors.Is(err, errPublished) {
		return nil
	}
	if err != nil {
		return err
	}
	if lost != "" {
		m.log.ErrorContext(ctx, "the audit chain was altered, or the store was replaced by an older copy: verify the chain against checkpoints that were kept elsewhere", "problem", lost)
	}
	m.log.InfoContext(ctx, "audit head", "head", list[0])
	for _, b := range published {
		b.Committed()
	}
	return nil
}

// publishCheckpoint publishes a checkpoint to the recipients of events that belong to no tenant.
func publishCheckpoint(b *events.Batch, h audit.Checkpoint) error {
	to, err := b.Recipients("", events.AuditCheckpoint)
	if err != nil || to.Empty() {
		return err
	}
	return b.PublishData(to, events.Event{Type: events.AuditCheckpoint, At: h.At}, h)
}
