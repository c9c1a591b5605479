package keytable

import (
	"context"
	"errors"

	"github.com/keygate-dev/keygate/plugin/apikey"
)

// rewrite is an update of a presented key's stored secret. The secret is stored in an older form
// than keys are issued in now, or without all of the parts that may be shown.
type rewrite struct {
	keyspace, secret string
	// to is the primary form of the secret. It is the zero value if the secret is stored in that form already.
	to apikey.Candidate
	// shown are the parts of the secret that may be shown. It is the zero value if the store has these parts already.
	shown shownParts
}

// queueRewrite queues r. Where the queue is full it drops r; the key's next load queues it again.
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
					t.health.WriteFailed("updating the stored form of a key", err)
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
		// The filter gets the digest before the store does, so that it never lacks a stored one.
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
