package keytable

import (
	"context"
	"errors"

	"github.com/keygate-dev/keygate/plugin/apikey"
)

// rewrite brings the stored secret of a presented key up to date: it was stored in another
// form than keys are issued in now, or without all of the parts that may be shown.
type rewrite struct {
	keyspace, secret string
	// to is the primary form; zero where the secret has it.
	to apikey.Candidate
	// shown is zero where the secret has it.
	shown shownParts
}

// queueRewrite queues r. Where the queue is full, the key's next load queues it again.
func (t *Table) queueRewrite(r rewrite) {
	select {
	case t.rewrites <- r:
	default:
	}
}

// WriteRewrites writes all queued rewrites. Blocks on the store, within ctx. After a failure
// the key's next load queues its rewrite again.
func (t *Table) WriteRewrites(ctx context.Context) {
	for {
		select {
		case r := <-t.rewrites:
			if err := t.rewriteSecret(ctx, r); err != nil {
				if !errors.Is(err, ErrNotFound) && ctx.Err() == nil {
					t.health.WriteFailed("storing the present form of a key", err)
				}
				return
			}
		default:
			return
		}
	}
}

func (t *Table) rewriteSecret(ctx context.Context, r rewrite) error {
	if r.to.Algorithm != "" {
		// First, so that the filter never lacks a form that is stored.
		t.addToFilter([][]byte{r.to.Digest[:]})
		if err := t.store.Rehash(ctx, r.keyspace, r.secret, r.to); err != nil {
			return err
		}
	}
	if r.shown == (shownParts{}) {
		return nil
	}
	return t.store.SetShown(ctx, r.keyspace, r.secret, r.shown.prefix, r.shown.lastFour)
}
