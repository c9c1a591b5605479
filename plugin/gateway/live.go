package gateway

import (
	"sync"
	"sync/atomic"
	"time"
)

// Live is a request that runs on behalf of a key. It is ended when the key stops
// being good: by revocation, disabling, deletion, expiry, the end of a rotation's grace, or the
// tenant's suspension.
type Live struct {
	prev, next *Live
	// markListed is the key's. It changes, both lists being locked, when the key's state was
	// dropped just before the request was tracked.
	list  atomic.Pointer[liveList]
	entry *entry
	// TenantState is the tenant's state in which the request is counted.
	owner *tenantState
	end   func(Reason)
	timer *time.Timer
}

// liveList is the live requests of one key.
type liveList struct {
	mu   sync.Mutex
	head *Live
}

// Track has end called, once at most, when the request's key stops being good before
// Done. end must not block; it may be called before Track returns. Only for allowed
// decisions.
func (d *Decision) Track(end func(Reason)) { d.TrackIn(new(Live), end) }

// TrackIn is Track for who has a place for the Live already, which is to be used for this
// request alone: it may be looked at after Done.
func (d *Decision) TrackIn(l *Live, end func(Reason)) {
	e := d.entry
	if e == nil || d.Reason != Allowed {
		return
	}
	l.entry, l.owner, l.end = e, e.TenantState, end
	d.live = l
	l.owner.live.Add(1)
	list := &e.KeyState.live
	list.mu.Lock()
	list.link(l)
	if !d.Until.IsZero() {
		l.timer = time.AfterFunc(time.Until(d.Until), l.expire)
	}
	list.mu.Unlock()
	// Whoever changes the key, or drops its state, raises its version first and looks at
	// the list then: either it finds this request or this request finds the version raised.
	if !e.current() {
		d.gw.recheck(e)
	}
}

// expire ends the request when its time is up, by the clock that requests are judged by. A timer may
// run out before that: the clock was set back meanwhile, which timers don't follow; or the expiry was moved
// by a change that was applied when the timer had run out already and waited for the list.
func (l *Live) expire() {
	list := l.lock()
	end, e := l.end, l.entry
	if end == nil {
		list.mu.Unlock()
		return
	}
	until := e.until()
	if left := time.Until(until); until.IsZero() || left > 0 {
		l.timer = nil
		if !until.IsZero() {
			l.timer = time.AfterFunc(left, l.expire)
		}
		list.mu.Unlock()
		return
	}
	l.end = nil
	list.mu.Unlock()
	reason := ExpiredKey
	if grace := e.secretExpires(); e.Key.expires == 0 || grace != 0 && grace < e.Key.expires {
		reason = RevokedKey // a rotation's grace ended
	}
	end(reason)
}

// remove takes the request off its key's list; no end follows.
func (l *Live) remove() {
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

// lockCredits locks the list that l is on, and returns it.
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

// endAll ends every request, for that reason.
func (ll *liveList) endAll(reason Reason) {
	var ends []func(Reason)
	ll.mu.Lock()
	for l := ll.head; l != nil; l = l.next {
		if l.end != nil {
			ends = append(ends, l.end)
			l.end = nil
		}
	}
	ll.mu.Unlock()
	for _, end := range ends {
		end(reason)
	}
}

// empty says that no request is live.
func (ll *liveList) empty() bool {
	ll.mu.Lock()
	defer ll.mu.Unlock()
	return ll.head == nil
}

// entries returns the distinct entries that live requests were let in by.
func (ll *liveList) entries() []*entry {
	ll.mu.Lock()
	defer ll.mu.Unlock()
	var out []*entry
	seen := map[*entry]bool{}
	for l := ll.head; l != nil; l = l.next {
		if !seen[l.entry] {
			seen[l.entry] = true
			out = append(out, l.entry)
		}
	}
	return out
}

// recheck ends the requests that were let in by old, for that reason; or, where reason
// is Allowed, goes on with them as let in by now, until its expiry.
func (ll *liveList) recheck(old, now *entry, reason Reason) {
	var ends []func(Reason)
	ll.mu.Lock()
	for l, next := ll.head, (*Live)(nil); l != nil; l = next {
		next = l.next
		if l.entry != old || l.end == nil {
			continue
		}
		if reason != Allowed {
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
		if until := now.until(); !until.IsZero() {
			l.timer = time.AfterFunc(time.Until(until), l.expire)
		}
		if successor := &now.KeyState.live; successor != ll {
			// This state was dropped: changes are looked for at its successor. Always from
			// the older to the newer, so the two locks can't meet the other way round.
			ll.unlink(l)
			successor.mu.Lock()
			successor.link(l)
			successor.mu.Unlock()
		}
	}
	ll.mu.Unlock()
	for _, end := range ends {
		end(reason)
	}
}
