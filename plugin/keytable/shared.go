package keytable

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

// sharedSubject is the subject of an allowance that a key has taken over from a former key. The states of both keys refer to
// it.
type sharedSubject struct {
	*ratelimit.Subject
	// users counts the states, and the calls of admit, that refer to the subject. The lock of sharedSubjects guards it.
	users int
}

// sharedSubjects holds the subjects of allowances that were taken over, by their ids. The lock of a shard is taken before its
// lock.
type sharedSubjects struct {
	mu   sync.Mutex
	byID map[string]*sharedSubject
	// count is the size of byID, so that most calls need no lock.
	count atomic.Int64
}

// useShared returns the shared subject of the key's allowance, and nil if the key has an allowance that no other key has had.
// The caller must release it.
func (t *registry) useShared(k *Key) *sharedSubject {
	origin := ID{k.Keyspace, k.AllowanceID()}
	if origin.ID == k.ID {
		if t.shared.count.Load() == 0 {
			return nil
		}
		return t.shared.find(holderID(origin))
	}
	if s := t.shared.find(holderID(origin)); s != nil {
		return s
	}
	// The allowance is the own one of a former key, which may still have a state.
	shard, _, hash := t.shard(origin)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	former := shard.keys.find(hash, origin)
	if former == nil || former.shared != nil || former.Subject.ID() != holderID(origin) {
		return t.shared.add(ratelimit.NewSubject(holderID(origin)), nil)
	}
	return t.shared.add(former.Subject, former)
}

// find returns a subject, and counts the caller as a user. It returns nil if there is none.
func (t *sharedSubjects) find(id string) *sharedSubject {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.byID[id]
	if s != nil {
		s.users++
	}
	return s
}

// add adds a subject, which former uses if it is not nil, and counts the caller as a user. It returns the subject that is
// there already, if another call has added one.
func (t *sharedSubjects) add(subject *ratelimit.Subject, former *KeyState) *sharedSubject {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.byID[subject.ID()]
	if s == nil {
		s = &sharedSubject{Subject: subject}
		if t.byID == nil {
			t.byID = make(map[string]*sharedSubject)
		}
		t.byID[subject.ID()] = s
		t.count.Add(1)
		if former != nil {
			former.shared = s
			s.users++
		}
	}
	s.users++
	return s
}

// use counts another user of s.
func (t *sharedSubjects) use(s *sharedSubject) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.users++
}

// release undoes find, add and use. A subject without users stays until it is used again or is idle.
func (t *sharedSubjects) release(s *sharedSubject) {
	if s == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s.users--
}

// drop reports whether the state k can be dropped without losing counts. It marks the subject as dropped, unless another
// state uses it.
func (t *sharedSubjects) drop(k *KeyState, now time.Time) bool {
	s := k.shared
	if s == nil {
		return k.Subject.Drop(now)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.users == 1 {
		if !s.Subject.Drop(now) {
			return false
		}
		t.remove(s)
	}
	s.users--
	return true
}

// sweep drops idle subjects without users.
func (t *sharedSubjects) sweep(now time.Time) {
	if t.count.Load() == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.byID {
		if s.users == 0 && s.Subject.Drop(now) {
			t.remove(s)
		}
	}
}

func (t *sharedSubjects) remove(s *sharedSubject) {
	delete(t.byID, s.ID())
	t.count.Add(-1)
}
