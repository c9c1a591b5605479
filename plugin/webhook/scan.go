package webhook

import (
	"context"
	"time"

	"github.com/keygate-dev/keygate/plugin/management"
)

// scanLoop announces what happens with time, and forgets what is long past, until ctx ends.
func (s *Service) scanLoop(ctx context.Context) {
	var unused time.Time
	for {
		now := s.now()
		s.failed(ctx, "giving out the head of the audit chain", s.Manager.PublishCheckpoint(ctx, s.Heads))
		for _, keyspace := range s.Keyspaces() {
			s.failed(ctx, "looking for keys that expire", s.Manager.AnnounceExpiries(ctx, keyspace))
		}
		if unused.IsZero() || now.Sub(unused) >= s.ScanUnused {
			unused = now
			for _, keyspace := range s.Keyspaces() {
				s.failed(ctx, "looking for keys that are not used", s.Manager.AnnounceUnused(ctx, keyspace))
			}
			s.failed(ctx, "forgetting what is long past", s.prune(ctx, now))
		}
		if !pause(ctx, s.Scan) {
			return
		}
	}
}

// prune removes what nobody asks for any more: events with their deliveries, what was told of by itself, and
// requests that were to be carried out once. It removes a few rows at a time, so that nobody waits for it.
func (s *Service) prune(ctx context.Context, now time.Time) error {
	for _, some := range []func(management.Tx) (int64, error){
		func(tx management.Tx) (int64, error) { return tx.PruneEvents(now.Add(-keep), pruneAtOnce) },
		func(tx management.Tx) (int64, error) { return tx.PruneOneShots(now.Add(-keepMarks), pruneAtOnce) },
		func(tx management.Tx) (int64, error) { return 0, tx.PruneIdempotency(now) },
	} {
		for {
			var n int64
			err := s.Store.Update(ctx, func(tx management.Tx) (err error) {
				n, err = some(tx)
				return err
			})
			if err != nil {
				return err
			}
			if n < pruneAtOnce {
				break
			}
		}
	}
	return nil
}
