package ratelimit

import (
	"hash/maphash"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// maxAddresses is how many subjects NewAddresses keeps, unless running requests or counts that
// are not written yet hold more. Beyond twice as many, only running requests do.
const maxAddresses = 1 << 18

// Addresses holds the subjects of limits `per address`: one for each owner of such
// limits and client (an IPv4 address or an IPv6 /64), made when first asked for. Made by
// NewAddresses; safe for concurrent use.
type Addresses struct {
	perShard int
	seed     maphash.Seed
	shards   [shards]addressShard
}

// addressKey names a subject of the table.
type addressKey struct {
	owner  string
	client client
}

type address struct {
	subject *Subject
	// used since the last Sweep: a request may be about to charge it.
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

// Get returns the subject for a client's address under an owner: whoever states the
// limits, so that one client has separate counts under each. Its id is "a:<owner>:<address>".
// The caller binds the policies to it. A subject may be dropped
// between Get and a charge if two Sweeps pass in between; the charge then answers
// ErrDropped and Get returns its successor. Allocates only for a new subject.
func (a *Addresses) Get(owner string, addr netip.Addr) *Subject {
	k := addressKey{owner, clientOf(addr)}
	s := a.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.subjects[k]
	if e == nil || e.subject.Dropped() {
		if len(s.subjects) >= a.perShard {
			s.evict(len(s.subjects) >= 2*a.perShard)
		}
		e = &address{subject: NewSubject("a:" + owner + ":" + k.client.String())}
		s.subjects[k] = e
	}
	e.used = true
	return e.subject
}

// Sweep drops the subjects that are idle at now and were not asked for since the last
// Sweep. It holds one part's lock at a time.
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

// All calls yield with each subject until it returns false, holding no lock meanwhile.
func (a *Addresses) All(yield func(*Subject) bool) {
	var part []*Subject
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

// OwnerOf returns the owner whose limits the subject of that id is counted for, and reports whether
// the id is one that Get gives to an address.
func OwnerOf(id string) (owner string, ok bool) {
	rest, ok := strings.CutPrefix(id, "a:")
	if !ok {
		return "", false
	}
	// The owner is the id of a tenant or plan, three words; an address may hold more colons.
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

// evict makes room for one subject: of a few at random, the one that was not charged for
// longest is given up, idle or not. None is given up that has a request running, or unflushed
// counts: those are few, or soon flushed, and forgetting them would be a lie to the store. With all, which a
// store that takes no counts leads to, one is given up unless it has a request running.
func (s *addressShard) evict(all bool) {
	var oldest addressKey
	var since time.Time
	var found *Subject
	seen := 0
	for k, e := range s.subjects {
		if last, ok := e.subject.expendable(all); ok && (found == nil || last.Before(since)) {
			oldest, since, found = k, last, e.subject
		}
		if seen++; seen == sampled {
			break
		}
	}
	if found != nil && found.dropUnlessBusy(all) {
		delete(s.subjects, oldest)
	}
}

// expendable says whether s may be given up although it is not idle, and when it was last
// charged. One that never was is about to be, or left to the next Sweep. With all, only a running request keeps it.
func (s *Subject) expendable(all bool) (last time.Time, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if all {
		return s.last, s.live.Load() == 0
	}
	return s.last, !s.last.IsZero() && !s.busy()
}

// dropUnlessBusy is Drop for a subject that may still have something spent.
func (s *Subject) dropUnlessBusy(all bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if all && s.live.Load() != 0 || !all && s.busy() {
		return false
	}
	s.dropped.Store(true)
	return true
}
