package keytable

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// Live is a running request of a key, tracked by Table.Track. It is ended when the key stops
// being valid: by revocation, disabling, deletion, expiry, the end of a rotation's grace, or
// the tenant's suspension. Use each Live for one request only.
type Live struct {
	prev, next *Live
	// list is the list in the state of the request's key. It is replaced if that state was dropped just before the request was
	// tracked. The locks of both lists guard the replacement.
	list  atomic.Pointer[liveList]
	entry *Entry
	// owner is the tenant's state in which the request is counted.
	owner *TenantState
	// end is nil once the request was ended or removed.
	end   Ender
	timer *time.Timer
}

// Ender ends a request because its key is no longer valid. End must not block.
type Ender interface{ End(Validity) }

// liveList holds the live requests of one key.
type liveList struct {
	mu   sync.Mutex
	head *Live
	// ending is closed when the last group of requests that a call took from the list has been ended, and all earlier groups
	// too. It is nil before the first group. A request is taken by setting its end to nil.
	ending chan struct{}
}

// endOutside unlocks the list and then calls End of each of ends. It returns when requests that concurrent calls took from
// the list before have been ended as well.
func (ll *liveList) endOutside(ends []Ender, v Validity) {
	before := ll.ending
	if len(ends) > 0 {
		ll.ending = make(chan struct{})
		defer close(ll.ending)
	}
	ll.mu.Unlock()
	for _, end := range ends {
		end.End(v)
	}
	if before != nil {
		<-before
	}
}

// Track tracks l, a request that the entry e allowed. It calls end.End, at most once, if the key of e stops being valid
// before l is removed. The call may come before Track returns.
func (t *Table) Track(l *Live, e *Entry, end Ender) {
	l.entry, l.owner, l.end = e, e.TenantState, end
	l.owner.live.Add(1)
	list := &e.KeyState.live
	list.mu.Lock()
	list.link(l)
	if until := e.Until(); !until.IsZero() {
		l.timer = time.AfterFunc(time.Until(until), l.Expire)
	}
	list.mu.Unlock()
	// A change of the key, or the drop of its state, first raises the version and then searches the list. So either the change
	// finds this request in the list, or this request finds the raised version.
	if !e.Current() {
		t.recheck(e)
	}
}

// Expire ends the request if its key has expired by the wall clock. The timer may fire too early, because timers do not
// follow a clock that is set back, and because a change may move the expiry while the fired timer waits for the lock of
// the list.
func (l *Live) Expire() {
	list := l.lock()
	end, e := l.end, l.entry
	if end == nil {
		list.mu.Unlock()
		return
	}
	until := e.Until()
	if left := time.Until(until); until.IsZero() || left > 0 {
		l.timer = nil
		if !until.IsZero() {
			l.timer = time.AfterFunc(left, l.Expire)
		}
		list.mu.Unlock()
		return
	}
	l.end = nil
	list.mu.Unlock()
	validity := Expired
	if grace := e.secretExpires(); e.Key.expires == 0 || grace != 0 && grace < e.Key.expires {
		validity = Revoked // a rotation's grace ended
	}
	end.End(validity)
}

// Remove stops tracking the request. From then on it is not ended.
func (l *Live) Remove() {
	list := l.lock()
	defer list.mu.Unlock()
	l.end = nil
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	list.unlink(l)
	l.owner.live.Add(-1)
}

// lock locks the list that holds the request l, and returns that list.
func (l *Live) lock() *liveList {
	for {
		list := l.list.Load()
		list.mu.Lock()
		if l.list.Load() == list {
			return list
		}
		list.mu.Unlock()
	}
}

// link puts l on the list, which is locked.
func (ll *liveList) link(l *Live) {
	l.next = ll.head
	if l.next != nil {
		l.next.prev = l
	}
	ll.head = l
	l.list.Store(ll)
}

// unlink takes l off the list, which is locked.
func (ll *liveList) unlink(l *Live) {
	if l.prev != nil {
		l.prev.next = l.next
	} else if ll.head == l {
		ll.head = l.next
	}
	if l.next != nil {
		l.next.prev = l.prev
	}
	l.prev, l.next = nil, nil
}

// endAll ends every request.
func (ll *liveList) endAll(v Validity) {
	var ends []Ender
	ll.mu.Lock()
	for l := ll.head; l != nil; l = l.next {
		if l.end != nil {
			ends = append(ends, l.end)
			l.end = nil
		}
	}
	ll.endOutside(ends, v)
}

// empty reports whether no request is live.
func (ll *liveList) empty() bool {
	ll.mu.Lock()
	defer ll.mu.Unlock()
	return ll.head == nil
}

// entries returns the distinct entries by which live requests were allowed.
func (ll *liveList) entries() []*Entry {
	ll.mu.Lock()
	defer ll.mu.Unlock()
	var out []*Entry
	seen := map[*Entry]bool{}
	for l := ll.head; l != nil; l = l.next {
		if !seen[l.entry] {
			seen[l.entry] = true
			out = append(out, l.entry)
		}
	}
	return out
}

// recheck applies v, the present validity of the key, to the requests that the entry old allowed. If v is not Valid, it ends
// them. Otherwise they continue until the entry now expires. It returns when requests that concurrent calls end have been
// ended as well.
func (ll *liveList) recheck(old, now *Entry, v Validity) {
	var ends []Ender
	ll.mu.Lock()
	for l, next := ll.head, (*Live)(nil); l != nil; l = next {
		next = l.next
		if l.entry != old || l.end == nil {
			continue
		}
		if v != Valid {
			ends = append(ends, l.end)
			l.end = nil
			continue
		}
		l.entry = now
		if l.owner != now.TenantState {
			now.TenantState.live.Add(1)
			l.owner.live.Add(-1)
			l.owner = now.TenantState
		}
		if l.timer != nil {
			l.timer.Stop()
			l.timer = nil
		}
		if until := now.Until(); !until.IsZero() {
			l.timer = time.AfterFunc(time.Until(until), l.Expire)
		}
		if successor := &now.KeyState.live; successor != ll {
			// The state of the key was dropped, and changes search only the state that replaced it. Requests move only from an older
			// state to a newer one, so two calls can't take the locks of two states in opposite order.
			ll.unlink(l)
			successor.mu.Lock()
			successor.link(l)
			successor.mu.Unlock()
		}
	}
	ll.endOutside(ends, v)
}

// EndStale ends the live requests of the keyspaces for which stale returns true.
func (t *Table) EndStale(stale func(keyspace string) bool) {
	t.eachKey(nil, func(k *KeyState) {
		if stale(k.ID.Keyspace) {
			k.live.endAll(Stale)
		}
	})
}

// recheckKey checks again whether the live requests of a key may go on.
func (t *Table) recheckKey(k *KeyState) {
	if k.live.empty() {
		return
	}
	for _, e := range k.live.entries() {
		t.recheck(e)
	}
}

// recheckInterval is the time after which a failed recheck of live requests is repeated.
const recheckInterval = 250 * time.Millisecond

// recheck reads the present record of e's key from the store, and ends the live requests that e allowed if the key is no
// longer valid. While the store does not answer, the requests continue, and recheck tries again.
func (t *Table) recheck(e *Entry) {
	if t.closed.Load() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), loadTimeout)
	defer cancel()
	now, err := t.reload(ctx, e)
	switch {
	case errors.Is(err, ErrUnknown):
		e.KeyState.live.recheck(e, nil, Deleted)
	case err != nil:
		t.health.ReadFailed("checking live requests again", err)
		time.AfterFunc(recheckInterval, func() {
			if !e.KeyState.live.empty() {
				t.recheck(e)
			}
		})
	default:
		e.KeyState.live.recheck(e, now, now.ValidityAt(time.Now()))
		if !now.Current() {
			t.recheck(now)
		}
	}
}
