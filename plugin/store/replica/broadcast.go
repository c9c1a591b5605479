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

// Broadcaster takes what was refused while the primary is away to the other nodes, by another way
// than the primary, such as Redis. What is told stays told until it is withdrawn, or for a day or so: a
// node that listens later hears it too. Safe for concurrent use.
type Broadcaster interface {
	// Publish tells the nodes of cluster of a refusal. It costs nothing where that was told already, and blocks for
	// a second at most; an error means that it should be tried again.
	Publish(ctx context.Context, cluster ClusterID, r management.Revocation) error
	// Retract says that nobody need be told any more that this was refused by the time of r: the primary
	// has it, or it was taken back. It does not block, and is forgotten where it fails: whoever hears of
	// it again withdraws it again.
	Retract(cluster ClusterID, r management.Revocation)
	// Subscribe calls f, which blocks it, with what is told to the nodes of cluster: at once with all there is, which may be
	// nothing, then with what comes. It returns when ctx ends, f fails, or it can't hear, and is called again after
	// a while. What f gets was told by the cluster, and is well formed.
	Subscribe(ctx context.Context, cluster ClusterID, f func([]management.Revocation) error) error
}

// ClusterID is what the nodes that share a primary have in common.
type ClusterID struct {
	// Store is the primary's id. It is no secret.
	Store string
	// Key is known to whoever can read the primary or a copy of it, and nobody else: by it the nodes
	// know each other's words.
	Key []byte
}

// clusterIDOf returns what the nodes of a primary have in common.
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

// broadcastState is what a replica knows of its cluster.
type broadcastState struct {
	clusterID atomic.Pointer[ClusterID]
	// clusterIDSavedIn is the copy that cluster was kept in; the feed's.
	clusterIDSavedIn *Copy
	// resubscribe ends the hearing that goes on, so that it begins again; nil while there is none.
	resubscribe atomic.Pointer[context.CancelFunc]
	// publishFailures is how often in a row telling failed.
	publishFailures atomic.Int64
}

// loadClusterID takes from a copy what was learnt before: the primary may be away.
func (r *Replica) loadClusterID(ctx context.Context, local *Copy) {
	if store, key, err := local.ClusterID(ctx); err == nil {
		r.clusterID.Store(&ClusterID{store, key})
	}
}

// refreshClusterID asks the primary, once for each copy, and keeps it there. The feed calls it. Where
// it fails it is tried again.
func (r *Replica) refreshClusterID(ctx context.Context, local *Copy) {
	if r.broadcaster == nil || local == r.clusterIDSavedIn {
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
	// A copy that was made anew may lack what was told before.
	if end := r.resubscribe.Load(); end != nil {
		(*end)()
	}
}

// publish tells the other nodes of a refusal that is pending here.
func (r *Replica) publish(ctx context.Context, refusal management.Revocation) (ok bool) {
	if r.broadcaster == nil {
		return true
	}
	cluster := r.clusterID.Load()
	err := errNoClusterID
	if cluster != nil {
		err = r.broadcaster.Publish(ctx, *cluster, refusal)
	}
	// One failure says little: it may be that Redis is being connected, as after a start.
	if err != nil && r.publishFailures.Add(1) == 2 {
		r.log.Warn("what is refused while the database is away can't be told to the other nodes: it is tried on until the database has it", "error", err)
	}
	if err == nil && r.publishFailures.Swap(0) > 1 {
		r.log.Info("what is refused here is told to the other nodes again")
	}
	return err == nil
}

var errNoClusterID = errors.New("the database was never heard of, so that it is not known who shares it")

// republished says whether it is something that one node may decide alone. All others know the rest
// from the primary, each by itself.
func isBroadcast(r management.Revocation) bool {
	return r.Action != management.SecretEnded && r.Action != management.TokenRevoked
}

// republishInterval is how often it is seen to that what is pending stays told.
const republishInterval = 5 * time.Second

// republish tells the other nodes of what is pending that they may not have heard of.
func (r *Replica) republish(ctx context.Context) {
	s := r.view.Load()
	if r.broadcaster == nil || r.pendingCount.Load() == 0 || s.copy == nil || time.Since(r.republished) < republishInterval {
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

// subscribe refuses here what other nodes tell of.
func (r *Replica) subscribe(ctx context.Context) {
	deaf := false
	for ctx.Err() == nil {
		run, end := context.WithCancel(ctx)
		r.resubscribe.Store(&end)
		cluster, err := r.clusterID.Load(), error(nil)
		if cluster != nil {
			err = r.broadcaster.Subscribe(run, *cluster, func(list []management.Revocation) error {
				if deaf {
					r.log.Info("other nodes are heard again")
					deaf = false
				}
				return r.receive(run, *cluster, list)
			})
		}
		again := run.Err() != nil
		end()
		if again {
			continue
		}
		if err != nil && !deaf {
			deaf = true
			r.log.Warn("what other nodes refuse while the database is away is not heard", "error", err)
		}
		select {
		case <-time.After(retryInterval):
		case <-ctx.Done():
		}
	}
}

// primaryWait is how long the primary is waited for before what another node tells of is held: it may
// have been taken back since.
const primaryWait = time.Second

// receive holds what others told of, but for what the primary has, or what was taken back there.
func (r *Replica) receive(ctx context.Context, cluster ClusterID, list []management.Revocation) error {
	list = r.resolved.unresolved(list, func(old management.Revocation) { r.broadcaster.Retract(cluster, old) })
	if len(list) == 0 {
		return nil
	}
	if r.primaryError() == nil {
		short, cancel := context.WithTimeout(ctx, primaryWait)
		is, err := r.primary.CompareRevocations(short, list)
		cancel()
		r.primaryChanged.notify()
		if err == nil {
			var rest []management.Revocation
			for i, refusal := range list {
				if is[i] == replication.Revoked || is[i] == replication.Reversed {
					r.markResolved(refusal)
				} else {
					rest = append(rest, refusal)
				}
			}
			list = rest
		}
	}
	if len(list) == 0 {
		return nil
	}
	if err := r.storeReceived(ctx, list); err != nil {
		return fmt.Errorf("what another node refuses could not be held here: %w", err)
	}
	for _, refusal := range list {
		r.addUnsequenced(refusal.Change())
	}
	r.primaryChanged.notify()
	return nil
}

// storeReceived refuses here what others told of, also where the copy does not know it yet, and
// keeps it to be written back.
func (r *Replica) storeReceived(ctx context.Context, list []management.Revocation) error {
	r.pendingMu.Lock()
	defer r.pendingMu.Unlock()
	s := r.view.Load()
	if s.copy == nil {
		return fmt.Errorf("%w: there is no replica yet that could hold it", gateway.ErrStore)
	}
	if err := s.copy.RevokeAll(ctx, list); err != nil {
		return err
	}
	r.countPending(ctx, s)
	return nil
}

// markResolved notes that the primary has what was refused, or that it was taken back there: it is neither
// told nor held any more.
func (r *Replica) markResolved(refusal management.Revocation) {
	if !isBroadcast(refusal) {
		return
	}
	r.resolved.add(refusal)
	if cluster := r.clusterID.Load(); r.broadcaster != nil && cluster != nil {
		r.broadcaster.Retract(*cluster, refusal)
	}
}

// resolvedKept is how many settled refusals are remembered at least.
const resolvedKept = 10_000

// resolved remembers what was settled, so that word of it that comes late refuses nothing anew.
type resolved struct {
	mu sync.Mutex
	// recent and before are by what was refused until when; before is the older half.
	recent, older map[entryKey]time.Time
}

// entryKey is what was done to what.
type entryKey struct{ action, keyspace, id string }

func entryKeyOf(r management.Revocation) entryKey { return entryKey{r.Action, r.Keyspace, r.ID} }

func (s *resolved) add(r management.Revocation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.recent == nil || len(s.recent) >= resolvedKept {
		s.recent, s.older = make(map[entryKey]time.Time), s.recent
	}
	if d := entryKeyOf(r); r.At.After(s.recent[d]) {
		s.recent[d] = r.At
	}
}

// unresolved returns those of list that are not settled, and calls f with those that are.
func (s *resolved) unresolved(list []management.Revocation, f func(management.Revocation)) (out []management.Revocation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range list {
		d := entryKeyOf(r)
		if r.At.After(s.recent[d]) && r.At.After(s.older[d]) {
			out = append(out, r)
		} else {
			f(r)
		}
	}
	return out
}
