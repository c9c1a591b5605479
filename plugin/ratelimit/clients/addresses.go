package clients

import (
	"hash/maphash"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

// maxAddresses is how many subjects NewAddresses keeps. Subjects with running requests or unwritten counts may exceed this
// number, up to twice as many. Beyond that, only subjects with running requests are added.
const maxAddresses = 1 << 18

// Addresses holds the subjects of limits `per address`: one for each client (an IPv4 address or an
// IPv6 /64) and owner of such limits, made at the first Get. Made by NewAddresses; safe for
// concurrent use.
type Addresses struct {
	perShard int
	seed     maphash.Seed
	shards   [shards]addressShard
}

// addressKey identifies a subject of the table.
type addressKey struct {
	owner  string
	client client
}

type address struct {
	subject *ratelimit.Subject
	// used reports whether Get has returned the subject since the last Sweep. Such a subject stays, because a request may be
	// about to charge it.
	used bool
}

type addressShard struct {
	mu       sync.Mutex
	subjects map[addressKey]*address
}

// NewAddresses returns an empty table of at most 262144 subjects.
func NewAddresses() *Addresses { return newAddresses(maxAddresses) }

func newAddresses(maxEntries int) *Addresses {
	a := &Addresses{perShard: max(1, maxEntries/shards), seed: maphash.MakeSeed()}
	for i := range a.shards {
		a.shards[i].subjects = make(map[addressKey]*address)
	}
	return a
}

// Get returns the subject of a client's address under an owner. The owner is the plan or the tenant that states the limits;
// a client has separate counts under each owner. The subject's id is "a:<owner>:<address>". The caller binds the policies to
// the subject. If two Sweeps pass between Get and a charge, the subject may be dropped. The charge then returns ErrDropped,
// and the caller must call Get again. Get allocates only for a new subject.
func (a *Addresses) Get(owner string, addr netip.Addr) *ratelimit.Subject {
	k := addressKey{owner, clientOf(addr)}
	s := a.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.subjects[k]
	if e == nil || e.subject.Dropped() {
		if len(s.subjects) >= a.perShard {
			s.evict(len(s.subjects) >= 2*a.perShard)
		}
		e = &address{subject: ratelimit.NewSubject("a:" + owner + ":" + k.client.String())}
		s.subjects[k] = e
	}
	e.used = true
	return e.subject
}

// Sweep drops the subjects that are idle at now and that Get did not return since the last Sweep.
// It locks one shard at a time.
func (a *Addresses) Sweep(now time.Time) {
	for i := range a.shards {
		s := &a.shards[i]
		s.mu.Lock()
		for k, e := range s.subjects {
			if e.used {
				e.used = false
			} else if e.subject.Drop(now) {
				delete(s.subjects, k)
			}
		}
		if len(s.subjects) == 0 {
			s.subjects = make(map[addressKey]*address)
		}
		s.mu.Unlock()
	}
}

// Len returns how many subjects the table holds.
func (a *Addresses) Len() int {
	n := 0
	for i := range a.shards {
		s := &a.shards[i]
		s.mu.Lock()
		n += len(s.subjects)
		s.mu.Unlock()
	}
	return n
}

// All calls yield with each subject until yield returns false. All holds no lock during the calls.
func (a *Addresses) All(yield func(*ratelimit.Subject) bool) {
	var part []*ratelimit.Subject
	for i := range a.shards {
		s := &a.shards[i]
		part = part[:0]
		s.mu.Lock()
		for _, e := range s.subjects {
			part = append(part, e.subject)
		}
		s.mu.Unlock()
		for _, subject := range part {
			if !yield(subject) {
				return
			}
		}
	}
}

// OwnerOf returns the owner in the id of a subject, and reports whether the id is one that Get
// makes.
func OwnerOf(id string) (owner string, ok bool) {
	rest, ok := strings.CutPrefix(id, "a:")
	if !ok {
		return "", false
	}
	// The owner is the id of a tenant or plan, which has three parts; an address may hold more
	// colons.
	end := 0
	for range 3 {
		i := strings.IndexByte(rest[end:], ':')
		if i < 0 {
			return "", false
		}
		end += i + 1
	}
	return rest[:end-1], true
}

func (a *Addresses) shard(k addressKey) *addressShard {
	return &a.shards[maphash.Comparable(a.seed, k)%shards]
}

// evict makes room for one subject. It looks at a few random subjects, and drops the one that was charged least recently,
// even if it is not idle. It never drops a subject with a running request. It drops subjects with unwritten counts only if
// all is true, which is the case while the store accepts no counts.
func (s *addressShard) evict(all bool) {
	var oldest addressKey
	var since time.Time
	var found *ratelimit.Subject
	seen := 0
	for k, e := range s.subjects {
		if last, ok := e.subject.Expendable(all); ok && (found == nil || last.Before(since)) {
			oldest, since, found = k, last, e.subject
		}
		if seen++; seen == sampled {
			break
		}
	}
	if found != nil && found.DropUnlessBusy(all) {
		delete(s.subjects, oldest)
	}
}
