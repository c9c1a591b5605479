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
	"github.com/keygate-dev/keygate/plugin/store/sqlstore"
)

// Herald takes what was refused while the truth is away to the other nodes, by another way
// than the truth, such as Redis. What is told stays told until it is withdrawn, or for a day or so: a
// node that listens later hears it too. Safe for concurrent use.
type Herald interface {
	// Tell tells the nodes of kin of a refusal. It costs nothing where that was told already, and blocks for
	// a second at most; an error means that it should be tried again.
	Tell(ctx context.Context, kin Kin, r management.Revocation) error
	// Withdraw says that nobody need be told any more that this was refused by the time of r: the truth
	// has it, or it was taken back. It does not block, and is forgotten where it fails: whoever hears of
	// it again withdraws it again.
	Withdraw(kin Kin, r management.Revocation)
	// Hear calls f, which blocks it, with what is told to the nodes of kin: at once with all there is, which may be
	// nothing, then with what comes. It returns when ctx ends, f fails, or it can't hear, and is called again after
	// a while. What f gets was told by the kin, and is well formed.
	Hear(ctx context.Context, kin Kin, f func([]management.Revocation) error) error
}

// Kin is what the nodes that share a truth have in common.
type Kin struct {
	// Store is the truth's id. It is no secret.
	Store string
	// Key is known to whoever can read the truth or a copy of it, and nobody else: by it the nodes
	// know each other's words.
	Key []byte
}

// kinOf returns what the nodes of a truth have in common.
func kinOf(ctx context.Context, truth management.Store) (k Kin, err error) {
	var secret []byte
	err = truth.View(ctx, func(tx management.Tx) (err error) {
		k.Store, secret, err = tx.Identity()
		return err
	})
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("refusals told between nodes"))
	k.Key = mac.Sum(nil)
	return k, err
}

// kinship is what a replica knows of its kin.
type kinship struct {
	kin atomic.Pointer[Kin]
	// kinCopy is the copy that kin was kept in; the feed's.
	kinCopy *sqlstore.Copy
	// deaf ends the hearing that goes on, so that it begins again; nil while there is none.
	deaf atomic.Pointer[context.CancelFunc]
	// mute is how often in a row telling failed.
	mute atomic.Int64
}

// rememberKin takes from a copy what was learnt before: the truth may be away.
func (r *Replica) rememberKin(ctx context.Context, local *sqlstore.Copy) {
	if store, key, err := local.Kin(ctx); err == nil {
		r.kin.Store(&Kin{store, key})
	}
}

// learnKin asks the truth, once for each copy, and keeps it there. The feed calls it. Where
// it fails it is tried again.
func (r *Replica) learnKin(ctx context.Context, local *sqlstore.Copy) {
	if r.herald == nil || local == r.kinCopy {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	k, err := kinOf(ctx, r.truth)
	if err == nil {
		err = local.SetKin(ctx, k.Store, k.Key)
	}
	if err != nil {
		return
	}
	r.kinCopy = local
	r.kin.Store(&k)
	// A copy that was made anew may lack what was told before.
	if end := r.deaf.Load(); end != nil {
		(*end)()
	}
}

// tell tells the other nodes of a refusal that is pending here.
func (r *Replica) tell(ctx context.Context, refusal management.Revocation) (ok bool) {
	if r.herald == nil {
		return true
	}
	kin := r.kin.Load()
	err := errNoKin
	if kin != nil {
		err = r.herald.Tell(ctx, *kin, refusal)
	}
	// One failure says little: it may be that Redis is being connected, as after a start.
	if err != nil && r.mute.Add(1) == 2 {
		r.log.Warn("what is refused while the database is away can't be told to the other nodes: it is tried on until the database has it", "error", err)
	}
	if err == nil && r.mute.Swap(0) > 1 {
		r.log.Info("what is refused here is told to the other nodes again")
	}
	return err == nil
}

var errNoKin = errors.New("the database was never heard of, so that it is not known who shares it")

// told says whether it is something that one node may decide alone. All others know the rest
// from the truth, each by itself.
func told(r management.Revocation) bool {
	return r.Action != management.SecretEnded && r.Action != management.TokenRevoked
}

// retellEvery is how often it is seen to that what is pending stays told.
const retellEvery = 5 * time.Second

// retell tells the other nodes of what is pending that they may not have heard of.
func (r *Replica) retell(ctx context.Context) {
	s := r.sight.Load()
	if r.herald == nil || r.pendingN.Load() == 0 || s.copy == nil || time.Since(r.told) < retellEvery {
		return
	}
	r.told = time.Now()
	list, err := s.copy.Pending(ctx)
	if err != nil {
		return
	}
	for _, kept := range list {
		if told(kept.Revocation) && !r.tell(ctx, kept.Revocation) {
			return
		}
	}
}

// hear refuses here what other nodes tell of.
func (r *Replica) hear(ctx context.Context) {
	deaf := false
	for ctx.Err() == nil {
		run, end := context.WithCancel(ctx)
		r.deaf.Store(&end)
		kin, err := r.kin.Load(), error(nil)
		if kin != nil {
			err = r.herald.Hear(run, *kin, func(list []management.Revocation) error {
				if deaf {
					r.log.Info("other nodes are heard again")
					deaf = false
				}
				return r.take(run, *kin, list)
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
		case <-time.After(retryEvery):
		case <-ctx.Done():
		}
	}
}

// knowsBetter is how long the truth is waited for before what another node tells of is held: it may
// have been taken back since.
const knowsBetter = time.Second

// take holds what others told of, but for what the truth has, or what was taken back there.
func (r *Replica) take(ctx context.Context, kin Kin, list []management.Revocation) error {
	list = r.settled.without(list, func(old management.Revocation) { r.herald.Withdraw(kin, old) })
	if len(list) == 0 {
		return nil
	}
	if r.gone() == nil {
		short, cancel := context.WithTimeout(ctx, knowsBetter)
		is, err := r.truth.Compare(short, list)
		cancel()
		r.wake.ring()
		if err == nil {
			var rest []management.Revocation
			for i, refusal := range list {
				if is[i] == sqlstore.Holds || is[i] == sqlstore.TakenBack {
					r.settle(refusal)
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
	if err := r.holdTold(ctx, list); err != nil {
		return fmt.Errorf("what another node refuses could not be held here: %w", err)
	}
	for _, refusal := range list {
		r.stray(refusal.Change())
	}
	r.wake.ring()
	return nil
}

// holdTold refuses here what others told of, also where the copy does not know it yet, and
// keeps it to be written back.
func (r *Replica) holdTold(ctx context.Context, list []management.Revocation) error {
	r.pending.Lock()
	defer r.pending.Unlock()
	s := r.sight.Load()
	if s.copy == nil {
		return fmt.Errorf("%w: there is no replica yet that could hold it", gateway.ErrStore)
	}
	if err := s.copy.Keep(ctx, list); err != nil {
		return err
	}
	r.count(ctx, s)
	return nil
}

// settle notes that the truth has what was refused, or that it was taken back there: it is neither
// told nor held any more.
func (r *Replica) settle(refusal management.Revocation) {
	if !told(refusal) {
		return
	}
	r.settled.add(refusal)
	if kin := r.kin.Load(); r.herald != nil && kin != nil {
		r.herald.Withdraw(*kin, refusal)
	}
}

// settledKept is how many settled refusals are remembered at least.
const settledKept = 10_000

// settled remembers what was settled, so that word of it that comes late refuses nothing anew.
type settled struct {
	mu sync.Mutex
	// now and before are by what was refused until when; before is the older half.
	now, before map[deed]time.Time
}

// deed is what was done to what.
type deed struct{ action, keyspace, id string }

func deedOf(r management.Revocation) deed { return deed{r.Action, r.Keyspace, r.ID} }

func (s *settled) add(r management.Revocation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now == nil || len(s.now) >= settledKept {
		s.now, s.before = make(map[deed]time.Time), s.now
	}
	if d := deedOf(r); r.At.After(s.now[d]) {
		s.now[d] = r.At
	}
}

// without returns those of list that are not settled, and calls f with those that are.
func (s *settled) without(list []management.Revocation, f func(management.Revocation)) (out []management.Revocation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range list {
		d := deedOf(r)
		if r.At.After(s.now[d]) && r.At.After(s.before[d]) {
			out = append(out, r)
		} else {
			f(r)
		}
	}
	return out
}
