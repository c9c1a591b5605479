// Package checkpoints makes, signs and publishes checkpoints of the audit chain, and verifies the chain against those that
// were kept elsewhere.
package checkpoints

import (
	"context"
	"crypto/ed25519"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/management/events"
)

// signed returns a checkpoint of the chain as the transaction sees it, signed if this node has a
// key. It counts the events of a keyspace or, with "", of all.
func signed(m *management.Manager, tx management.Tx, keyspace string) (h audit.Checkpoint, err error) {
	store, _, err := tx.Identity()
	if err != nil {
		return h, err
	}
	if h, err = audit.NewCheckpoint(tx, store, keyspace, m.Clock()); err != nil {
		return h, err
	}
	key, err := m.CheckpointKey(store)
	if err != nil {
		return h, err
	}
	h.Sign(key)
	return h, nil
}

// Current returns a checkpoint of the chain. It counts the events of a keyspace or, with "", of
// all. Current returns 403 for an actor of one tenant, who could count the events of other tenants
// by it.
func Current(ctx context.Context, m *management.Manager, a management.Actor, keyspace string) (h audit.Checkpoint, err error) {
	if err := a.RequireOperator("see checkpoints of the audit chain, which covers all tenants"); err != nil {
		return h, err
	}
	err = m.Store().View(ctx, func(tx management.Tx) error {
		h, err = signed(m, tx, keyspace)
		return err
	})
	return h, err
}

// errPublished reports that another node has published a checkpoint meanwhile.
var errPublished = errors.New("another node has published a checkpoint")

// Publish publishes a checkpoint in the log, and as an event of each configured keyspace. It does
// so if the chain has grown and the last checkpoint is at least every old. Of the nodes that share
// a store, one publishes. Publish also checks that the last checkpoint is still in the chain, and
// logs an error if it is not.
func Publish(ctx context.Context, m *management.Manager, every time.Duration) error {
	v := m.View()
	if v == nil {
		return nil
	}
	now := m.Clock()
	var last audit.PublishedCheckpoint
	var list []audit.Checkpoint // The first checkpoint counts the events of all keyspaces. Then comes one for each keyspace, by name.
	var lost string
	err := m.Store().View(ctx, func(tx management.Tx) (err error) {
		list, lost = nil, ""
		if last, err = tx.PublishedCheckpoint(); err != nil || now.Sub(last.At).Abs() < every {
			return err
		}
		if lost, err = audit.Lost(tx, last); err != nil {
			return err
		}
		for _, name := range append([]string{""}, slices.Sorted(maps.Keys(v.Keyspaces))...) {
			h, err := signed(m, tx, name)
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
	err = m.Store().Update(ctx, func(tx management.Tx) error {
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
			b := m.Outbox().Begin(tx, *h.Keyspace, now, m.NewID)
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
		m.Logger().ErrorContext(ctx, "the audit chain was altered, or the store was replaced by an older copy: verify the chain against checkpoints that were kept elsewhere", "problem", lost)
	}
	m.Logger().InfoContext(ctx, "audit head", "head", list[0])
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

// Verify verifies the audit chain as management.VerifyAudit does, and compares it with checkpoints
// that were kept elsewhere. A signature must be of this gateway's key or of one of trusted.
func Verify(ctx context.Context, m *management.Manager, list []audit.Checkpoint, trusted []ed25519.PublicKey) (audit.Report, error) {
	var store string
	if err := m.Store().View(ctx, func(tx management.Tx) (err error) {
		store, _, err = tx.Identity()
		return err
	}); err != nil {
		return audit.Report{}, err
	}
	key, err := m.CheckpointKey(store)
	if err != nil {
		return audit.Report{}, err
	}
	if key != nil {
		trusted = append(trusted[:len(trusted):len(trusted)], key.Public().(ed25519.PublicKey))
	}
	return audit.VerifyCheckpoints(ctx, management.AuditReader(m.Store()), store, list, trusted)
}
