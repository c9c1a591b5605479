package replica

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/store/replication"
)

// Broadcaster carries revocations to other nodes while the primary is unreachable, for instance
// through Redis. A published revocation stays until a node retracts it, or for about a day, so that
// a node which subscribes later receives the revocation too. A Broadcaster is safe for concurrent use.
type Broadcaster interface {
	// Publish sends a revocation to the nodes of a cluster. It blocks for at most a second. After
	// an error the caller must try again. Publishing the same revocation again is cheap.
	Publish(ctx context.Context, cluster ClusterID, r management.Revocation) error
	// Retract removes the publications of a revocation that was decided at r.At or earlier. Callers use
	// Retract when the primary holds the revocation or has reversed it. Retract does not block and
	// reports no error: a node that receives the revocation again retracts it again.
	Retract(cluster ClusterID, r management.Revocation)
	// Subscribe calls f with the revocations published to a cluster. The first call of f gets all
	// revocations that are published now, possibly none. Later calls get new revocations. f gets only
	// authenticated, well-formed revocations of the cluster. Subscribe waits for f. Subscribe returns
	// when ctx ends, f returns an error, or the connection fails. The caller then calls Subscribe again.
	Subscribe(ctx context.Context, cluster ClusterID, f func([]management.Revocation) error) error
}

// ClusterID identifies the cluster of nodes that share a primary.
type ClusterID struct {
	// Store is the id that the primary database stores about itself. The id is not secret.
	Store string
	// Key authenticates the nodes' messages. Key is derived from a secret in the primary, so only
	// a process that can read the primary or a copy has the key.
	Key []byte
}

// clusterIDOf returns the cluster identity of a primary.
func clusterIDOf(ctx context.Context, primary management.Store) (k ClusterID, err error) {
	var secret []byte
	err = primary.View(ctx, func(tx management.Tx) (err error) {
		k.Store, secret, err = tx.Identity()
		return err
	})
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("refusals told between nodes"))
	k.Key = mac.Sum(nil)
	return k, err
}

// broadcastState is the part of a replica's state that concerns broadcasts of revocations to other
// nodes.
type broadcastState struct {
	clusterID atomic.Pointer[ClusterID]
	// clusterIDSavedIn is the copy to which the node wrote the cluster identity last. Only the sync loop
	// uses this field.
	clusterIDSavedIn *Copy
	// resubscribe cancels the running subscription to broadcasts, so that the loop subscribes again.
	// resubscribe is nil while no subscription runs.
	resubscribe atomic.Pointer[context.CancelFunc]
	// publishFailures counts the consecutive failures to publish a revocation.
	publishFailures atomic.Int64
}

// loadClusterID reads the cluster identity from the copy, since the primary may be unreachable.
func (r *Replica) loadClusterID(ctx context.Context, local *Copy) {
	if store, key, err := local.ClusterID(ctx); err == nil {
		r.clusterID.Store(&ClusterID{store, key})
	}
}

// refreshClusterID reads the cluster identity from the primary, once for each copy, and stores the
// identity in the copy. The sync loop calls refreshClusterID at each pass, so a failure is retried.
func (r *Replica) refreshClusterID(ctx context.Context, local *Copy) {
	if local == r.clusterIDSavedIn {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	k, err := clusterIDOf(ctx, r.primary)
	if err == nil {
		err = local.SetClusterID(ctx, k.Store, k.Key)
	}
	if err != nil {
		return
	}
	r.clusterIDSavedIn = local
	r.clusterID.Store(&k)
	// A new copy may lack revocations that the node received before. A new subscription delivers all of
	// them again.
	r.endSubscription()
}

// SetBroadcaster makes b publish and receive revocations from now on. With nil, revocations reach
// other nodes only through the primary. It does not block.
func (r *Replica) SetBroadcaster(b Broadcaster) {
	if b == nil {
		r.broadcaster.Store(nil)
	} else {
		r.broadcaster.Store(&b)
	}
	r.endSubscription()
}

// currentBroadcaster returns the broadcaster of revocations, or nil if there is none.
func (r *Replica) currentBroadcaster() Broadcaster {
	if b := r.broadcaster.Load(); b != nil {
		return *b
	}
	return nil
}

// endSubscription ends the running subscription to broadcasts, so that the loop subscribes again.
func (r *Replica) endSubscription() {
	if end := r.resubscribe.Load(); end != nil {
		(*end)()
	}
}

// retract removes the publications of a revocation that the primary holds or has reversed.
func (r *Replica) retract(cluster ClusterID, revocation management.Revocation) {
	if b := r.currentBroadcaster(); b != nil {
		b.Retract(cluster, revocation)
	}
}

// publish publishes a pending revocation to the other nodes, and reports whether it succeeded.
func (r *Replica) publish(ctx context.Context, revocation management.Revocation) (ok bool) {
	b, cluster := r.currentBroadcaster(), r.clusterID.Load()
	var err error
	switch {
	case b == nil:
		err = errNoBroadcaster
	case cluster == nil:
		err = errNoClusterID
	default:
		err = b.Publish(ctx, *cluster, revocation)
	}
	// A single failure to publish is not logged, because Redis may still be connecting shortly after a
	// start.
	if err != nil && r.publishFailures.Add(1) == 2 {
		r.log.Warn("revocations made while the database is unreachable can't be published to the other nodes; retrying until the database has them", "error", err)
	}
	if err == nil && r.publishFailures.Swap(0) > 1 {
		r.log.Info("revocations made on this node are published to the other nodes again")
	}
	return err == nil
}

var (
	errNoClusterID   = errors.New("the database never answered, so the cluster's identity is unknown")
	errNoBroadcaster = errors.New("the gateways share no Redis (limits redis)")
)

// isBroadcast reports whether nodes broadcast a revocation of this kind. Nodes broadcast the kinds
// that a node can decide while the primary is unreachable. All nodes read the other kinds from the
// primary.
func isBroadcast(r management.Revocation) bool {
	return r.Action != management.SecretEnded && r.Action != management.TokenRevoked
}

// republishInterval is how often a node publishes its pending revocations again.
const republishInterval = 5 * time.Second

// republish publishes all pending revocations again, at most every republishInterval.
func (r *Replica) republish(ctx context.Context) {
	s := r.view.Load()
	if r.pendingCount.Load() == 0 || s.copy == nil || time.Since(r.republished) < republishInterval {
		return
	}
	r.republished = time.Now()
	list, err := s.copy.Pending(ctx)
	if err != nil {
		return
	}
	for _, kept := range list {
		if isBroadcast(kept.Revocation) && !r.publish(ctx, kept.Revocation) {
			return
		}
	}
}

// subscribe applies the revocations that other nodes publish, until ctx ends.
func (r *Replica) subscribe(ctx context.Context) {
	failing := false
	for ctx.Err() == nil {
		run, end := context.WithCancel(ctx)
		r.resubscribe.Store(&end)
		b, cluster := r.currentBroadcaster(), r.clusterID.Load()
		var err error
		switch {
		case b == nil:
			<-run.Done() // The loop waits until SetBroadcaster sets another broadcaster.
		case cluster != nil:
			err = b.Subscribe(run, *cluster, func(list []management.Revocation) error {
				if failing {
					r.log.Info("revocations that other nodes publish are received again")
					failing = false
				}
				return r.receive(run, *cluster, list)
			})
		}
		again := run.Err() != nil
		end()
		if again {
			continue
		}
		if err != nil && !failing {
			failing = true
			r.log.Warn("revocations that other nodes make while the database is unreachable are not received; retrying", "error", err)
		}
		select {
		case <-time.After(retryInterval):
		case <-ctx.Done():
		}
	}
}

// primaryWait bounds how long a node asks the primary whether it holds, or has reversed, a
// revocation that another node sent. If the primary has not answered by then, the node applies the
// revocation.
const primaryWait = time.Second

// receive applies revocations that other nodes sent. It skips those that the primary already holds
// or has reversed.
func (r *Replica) receive(ctx context.Context, cluster ClusterID, list []management.Revocation) error {
	list = r.resolved.unresolved(list, func(old management.Revocation) { r.retract(cluster, old) })
	if len(list) == 0 {
		return nil
	}
	if r.primaryError() == nil {
		short, cancel := context.WithTimeout(ctx, primaryWait)
		states, err := r.primary.CompareRevocations(short, list)
		cancel()
		r.primaryChanged.notify()
		if err == nil {
			var rest []management.Revocation
			for i, revocation := range list {
				if states[i] == replication.Revoked || states[i] == replication.Reversed {
					r.markResolved(revocation)
				} else {
					rest = append(rest, revocation)
				}
			}
			list = rest
		}
	}
	if len(list) == 0 {
		return nil
	}
	if err := r.storeReceived(ctx, list); err != nil {
		return fmt.Errorf("a revocation of another node could not be stored on this node: %w", err)
	}
	for _, revocation := range list {
		r.addUnsequenced(revocation.Change())
	}
	r.primaryChanged.notify()
	return nil
}

// storeReceived applies revocations of other nodes to the copy, and stores them as pending: they
// must still be written to the primary. A revocation whose key or tenant the copy lacks is stored too.
func (r *Replica) storeReceived(ctx context.Context, list []management.Revocation) error {
	r.pendingMu.Lock()
	defer r.pendingMu.Unlock()
	s := r.view.Load()
	if s.copy == nil {
		return fmt.Errorf("%w: there is no replica yet that could store the revocation", gateway.ErrStore)
	}
	if err := s.copy.RevokeAll(ctx, list); err != nil {
		return err
	}
	r.countPending(ctx, s)
	return nil
}

// markResolved records that the primary holds a revocation, or has reversed it. From then on this
// node neither publishes the revocation nor applies a message that carries it.
func (r *Replica) markResolved(revocation management.Revocation) {
	if !isBroadcast(revocation) {
		return
	}
	r.resolved.add(revocation)
	if cluster := r.clusterID.Load(); cluster != nil {
		r.retract(*cluster, revocation)
	}
}

// resolvedKept is the least number of resolved revocations that a node remembers. A revocation is
// resolved once the primary holds it or has reversed it.
const resolvedKept = 10_000

// resolved remembers the revocations that the primary holds or has reversed, so that a late message
// does not apply one of them again.
type resolved struct {
	mu sync.Mutex
	// recent and older hold, for each revocation's key, the time up to which revocations are resolved.
	// When recent is full, recent becomes older and a new map takes the place of recent.
	recent, older map[entryKey]time.Time
}

// entryKey identifies a revocation by its action, keyspace and id. The time of the decision is not
// part of the key.
type entryKey struct{ action, keyspace, id string }

func entryKeyOf(r management.Revocation) entryKey { return entryKey{r.Action, r.Keyspace, r.ID} }

func (s *resolved) add(r management.Revocation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.recent == nil || len(s.recent) >= resolvedKept {
		s.recent, s.older = make(map[entryKey]time.Time), s.recent
	}
	if k := entryKeyOf(r); r.At.After(s.recent[k]) {
		s.recent[k] = r.At
	}
}

// unresolved returns the revocations of list that are not resolved, and calls f with those that are.
func (s *resolved) unresolved(list []management.Revocation, f func(management.Revocation)) (out []management.Revocation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range list {
		k := entryKeyOf(r)
		if r.At.After(s.recent[k]) && r.At.After(s.older[k]) {
			out = append(out, r)
		} else {
			f(r)
		}
	}
	return out
}
