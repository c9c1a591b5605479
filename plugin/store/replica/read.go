package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/store"
	"github.com/keygate-dev/keygate/plugin/store/replication"
	"github.com/keygate-dev/keygate/plugin/store/sqlite"
)

// onView calls f with the copy, or with the primary if there is no usable copy. The argument over is
// the former copy, whose revocations the primary may have lost, or nil if there is no former copy. If
// the copy is replaced while f runs, onView ignores the result and calls f again.
func (r *Replica) onView(ctx context.Context, f func(s gateway.Store, over *Copy) error) error {
	for {
		s := r.view.Load()
		if s.replaced != nil {
			select {
			case <-s.replaced:
				continue
			case <-ctx.Done():
				return fmt.Errorf("%w: the replica is being replaced: %w", gateway.ErrStore, ctx.Err())
			}
		}
		var err error
		if s.passThrough {
			err = f(r.primary, s.copy)
		} else {
			err = f(s.copy, nil)
		}
		if errors.Is(err, gateway.ErrNotFound) && !s.passThrough && r.stale() {
			err = errStale
		}
		if err == nil || r.view.Load() == s || ctx.Err() != nil {
			if err != nil && !s.passThrough && sqlite.Damaged(err) {
				r.discardDamaged(s, err)
				continue
			}
			return err
		}
	}
}

// staleAfter is how old the copy's last sync may be when the copy reports a key as unknown. After
// that time the key may be a new one that the copy lacks, so the primary must answer.
const staleAfter = 3 * time.Second

var errStale = fmt.Errorf("%w: the replica does not hold the key, but has not synced for some seconds: the key may be new", gateway.ErrStore)

// stale reports whether the primary may have keys that the copy does not have yet.
func (r *Replica) stale() bool { return time.Since(r.LastSync()) > staleAfter }

// Lookup implements gateway.Store.
func (r *Replica) Lookup(ctx context.Context, keyspace string, digests []apikey.Candidate) (rec *gateway.Record, err error) {
	err = r.onView(ctx, func(s gateway.Store, over *Copy) (err error) {
		if rec, err = s.Lookup(ctx, keyspace, digests); err == nil && over != nil {
			rec, err = r.overlay(ctx, over, rec)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return rec, nil
}

// LookupSecret implements gateway.Store.
func (r *Replica) LookupSecret(ctx context.Context, keyspace, secretID string) (rec *gateway.Record, err error) {
	err = r.onView(ctx, func(s gateway.Store, over *Copy) (err error) {
		if rec, err = s.LookupSecret(ctx, keyspace, secretID); err == nil && over != nil {
			rec, err = r.overlay(ctx, over, rec)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return rec, nil
}

// overlay returns rec with the revocations of the former copy applied. It returns gateway.ErrNotFound
// if a revocation deletes the key or tenant.
func (r *Replica) overlay(ctx context.Context, former *Copy, rec *gateway.Record) (*gateway.Record, error) {
	over, reversible, err := former.Overlay(ctx, rec)
	if err != nil || len(reversible) == 0 {
		return over, err
	}
	// The primary may have reversed some of the former copy's revocations.
	if reversed, err := r.reverse(ctx, former, reversible); err != nil || !reversed {
		return over, nil // The key stays revoked until the primary reports a reversal.
	}
	over, _, err = former.Overlay(ctx, rec)
	return over, err
}

// reverse ends those revocations of the former copy that the primary has reversed. It reports whether
// it ended at least one.
func (r *Replica) reverse(ctx context.Context, former *Copy, list []management.Revocation) (found bool, err error) {
	states, err := r.primary.CompareRevocations(ctx, list)
	if err != nil {
		return false, err
	}
	var reversed []management.Revocation
	for i, revocation := range list {
		if states[i] == replication.Reversed {
			reversed = append(reversed, revocation)
		}
	}
	if len(reversed) == 0 {
		return false, nil
	}
	return true, former.Reverse(ctx, reversed)
}

// SecretsByHint implements gateway.Store.
func (r *Replica) SecretsByHint(ctx context.Context, keyspace string, hint apikey.Hint, limit int) (out []gateway.Secret, err error) {
	err = r.onView(ctx, func(s gateway.Store, _ *Copy) (err error) {
		out, err = s.SecretsByHint(ctx, keyspace, hint, limit)
		return err
	})
	return out, err
}

// Digests implements gateway.Store. Digests may call yield several times with the same digest.
func (r *Replica) Digests(ctx context.Context, yield func(keyspace string, digest []byte) bool) error {
	return r.onView(ctx, func(s gateway.Store, _ *Copy) error { return s.Digests(ctx, yield) })
}

// CountSecrets implements gateway.Store.
func (r *Replica) CountSecrets(ctx context.Context) (n int64, err error) {
	err = r.onView(ctx, func(s gateway.Store, _ *Copy) (err error) {
		n, err = s.CountSecrets(ctx)
		return err
	})
	return n, err
}

// SecretDigests implements gateway.Store.
func (r *Replica) SecretDigests(ctx context.Context, keyspace string, keyIDs ...string) (out [][]byte, err error) {
	err = r.onView(ctx, func(s gateway.Store, _ *Copy) (err error) {
		out, err = s.SecretDigests(ctx, keyspace, keyIDs...)
		return err
	})
	return out, err
}

// Changes implements gateway.Store.
func (r *Replica) Changes(ctx context.Context, after int64, limit int) (out []gateway.Change, err error) {
	err = r.onView(ctx, func(s gateway.Store, _ *Copy) (err error) {
		out, err = s.Changes(ctx, after, limit)
		return err
	})
	return out, err
}

// LastSeq implements gateway.Store. It returns the number of the newest change that look-ups on this
// node reflect.
func (r *Replica) LastSeq(ctx context.Context) (seq int64, err error) {
	err = r.onView(ctx, func(s gateway.Store, _ *Copy) (err error) {
		seq, err = s.LastSeq(ctx)
		return err
	})
	return seq, err
}

// Peppers implements gateway.Store.
func (r *Replica) Peppers(ctx context.Context) (out map[string]string, err error) {
	err = r.onView(ctx, func(s gateway.Store, _ *Copy) (err error) {
		out, err = s.Peppers(ctx)
		return err
	})
	return out, err
}

// TenantsByPlan implements gateway.Store.
func (r *Replica) TenantsByPlan(ctx context.Context, keyspace string) (out map[string]int64, err error) {
	err = r.onView(ctx, func(s gateway.Store, _ *Copy) (err error) {
		out, err = s.TenantsByPlan(ctx, keyspace)
		return err
	})
	return out, err
}

// Ping implements gateway.Store. It returns nil if the node can answer look-ups.
func (r *Replica) Ping(ctx context.Context) error {
	return r.onView(ctx, func(s gateway.Store, _ *Copy) error { return s.Ping(ctx) })
}

// countsTimeout bounds the time to read usage counts, because the first request with a key waits for
// them.
const countsTimeout = 500 * time.Millisecond

// LoadUsage implements gateway.Store. While the primary is unreachable, LoadUsage returns the usage
// counts that this node wrote last.
func (r *Replica) LoadUsage(ctx context.Context, subject string, now time.Time) ([]gateway.Usage, error) {
	err := r.primaryError()
	if err == nil {
		short, cancel := context.WithTimeout(ctx, countsTimeout)
		defer cancel()
		var out []gateway.Usage
		if out, err = r.primary.LoadUsage(short, subject, now); err == nil {
			return out, nil
		}
		r.primaryChanged.notify()
	}
	s := r.view.Load()
	if s.copy == nil || !unavailable(err) {
		return nil, err
	}
	return s.copy.LoadUsage(ctx, subject, now)
}

// View implements management.Store. While the primary is unreachable, View reads tenants, keys and
// tokens from the copy, and all other reads fail.
func (r *Replica) View(ctx context.Context, f func(management.Tx) error) error {
	err := r.onPrimaryWhileReachable(ctx, func(ctx context.Context) error { return r.primary.View(ctx, f) })
	if err == nil || !unavailable(err) || ctx.Err() != nil {
		return err
	}
	s := r.view.Load()
	if s.passThrough || s.copy == nil {
		return err
	}
	return s.copy.View(ctx, func(tx management.Tx) error { return f(&copyTx{tx.(store.Tx), err}) })
}
