package webhook

import (
	"context"
	"time"

	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/checkpoints"
	"github.com/keygate-dev/keygate/plugin/management/idempotency"
	"github.com/keygate-dev/keygate/plugin/management/webhooks"
)

// scanLoop publishes the events that time causes, and prunes old rows, until ctx ends.
func (s *Service) scanLoop(ctx context.Context) {
	var unused time.Time
	for {
		now := s.now()
		s.logFailure(ctx, "publishing a checkpoint of the audit chain", checkpoints.Publish(ctx, s.Manager, s.Checkpoints))
		for _, keyspace := range s.Keyspaces() {
			s.logFailure(ctx, "looking for keys that expire", s.registry.AnnounceExpiries(ctx, keyspace))
		}
		if unused.IsZero() || now.Sub(unused) >= s.ScanUnused {
			unused = now
			for _, keyspace := range s.Keyspaces() {
				s.logFailure(ctx, "looking for unused keys", s.registry.AnnounceUnused(ctx, keyspace))
			}
			s.logFailure(ctx, "removing old rows", s.prune(ctx, now))
		}
		if !pause(ctx, s.Scan) {
			return
		}
	}
}

// prune removes old events with their deliveries, old records of one-shot events, and expired idempotency records. It
// removes a few rows per transaction, so that no other request waits long.
func (s *Service) prune(ctx context.Context, now time.Time) error {
	for _, remove := range []func(webhooks.Tx) (int64, error){
		func(tx webhooks.Tx) (int64, error) { return tx.PruneEvents(now.Add(-eventRetention), pruneBatch) },
		func(tx webhooks.Tx) (int64, error) { return tx.PruneOneShots(now.Add(-oneShotRetention), pruneBatch) },
	} {
		for {
			var n int64
			err := s.update(ctx, func(tx webhooks.Tx) (err error) {
				n, err = remove(tx)
				return err
			})
			if err != nil {
				return err
			}
			if n < pruneBatch {
				break
			}
		}
	}
	return s.Store.Update(ctx, func(tx management.Tx) error {
		rows, err := management.Role[idempotency.Tx](tx)
		if err != nil {
			return err
		}
		return rows.PruneIdempotency(now)
	})
}
