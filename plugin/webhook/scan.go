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
		s.failed(ctx, "giving out the head of the audit chain", s.Manager.AnnounceHead(ctx, s.Heads))
		for _, keyspace := range s.Keyspaces() {
			s.failed(ctx, "looking for keys that expire", s.Manager.AnnounceExpiries(ctx, keyspace))
		}
		if unused.IsZero() || now.Sub(unused) >= s.ScanUnused {
			unused = now
			for _, keyspace := range s.Keyspaces() {
				s.failed(ctx, "looking for keys that are not used", s.Manager.AnnounceUnused(ctx, keyspace))
			}
			s.failed(ctx, "forgetting old events", s.prune(ctx, now.Add(-keep)))
		}
		if !pause(ctx, s.Scan) {
			return
		}
	}
}

// prune removes events from before a time, a few at once so that nobody waits for it.
func (s *Service) prune(ctx context.Context, before time.Time) error {
	for {
		var n int64
		err := s.Store.Update(ctx, func(tx management.Tx) (err error) {
			n, err = tx.PruneEvents(before, pruneAtOnce)
			return err
		})
		if err != nil || n < pruneAtOnce {
			return err
		}
	}
}
