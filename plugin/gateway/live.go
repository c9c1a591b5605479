package gateway

import (
	"sync"
	"time"
)

// Live is a request that runs on behalf of a key. It is ended when the key stops
// being good: by revocation, disabling, deletion, expiry, the end of a rotation's grace, or the
// tenant's suspension.
type Live struct {
	prev, next *Live
	list       *liveList
	entry      *entry
	end        func(Reason)
	timer      *time.Timer
}

// liveList is the live requests of one key.
type liveList struct {
	mu   sync.Mutex
	head *Live
}

// Track has end called, once at most, when the request's key stops being good before
// Done. end must not block; it may be called before Track returns. Only for allowed
// decisions.
func (d *Decision) Track(end func(Reason)) {
	e := d.entry
	if e == nil || d.Reason != Allowed {
		return
	}
	l := &Live{list: &e.key.live, entry: e, end: end}
	d.live = l
	l.list.mu.Lock()
	l.next = l.list.head
	if l.next != nil {
		l.next.prev = l
	}
	l.list.head = l
	if !d.Until.IsZero() {
		l.timer = time.AfterFunc(time.Until(d.Until), l.expire)
	}
	l.list.mu.Unlock()
	// Whoever changes the key raises its version first and walks the list then: either the
	// walk finds this request or this request finds the version raised.
	if !e.current() {
		d.gw.recheck(e)
	}
}

// expire ends the request when its time is up. A key whose expiry was moved meanwhile
// was re-judged when that change was applied, and the timer set anew.
func (l *Live) expire() {
	l.list.mu.Lock()
	end, e := l.end, l.entry
	l.end = nil
	l.list.mu.Unlock()
	if end == nil {
		return
	}
	reason := ExpiredKey
	if e.rec.expires == 0 || e.secretExpires != 0 && e.secretExpires < e.rec.expires {
		reason = RevokedKey // a rotation's grace ended
	}
	end(reason)
}

// remove takes the request off its key's list; no end follows.
func (l *Live) remove() {
	l.list.mu.Lock()
	defer l.list.mu.Unlock()
	l.end = nil
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	if l.prev != nil {
		l.prev.next = l.next
	} else if l.list.head == l {
		l.list.head = l.next
	}
	if l.next != nil {
		l.next.prev = l.prev
	}
	l.prev, l.next = nil, nil
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

// rejudge ends the requests that were let in by old, for that reason; or, where reason
// is Allowed, goes on with them as let in by now, until its expiry.
func (ll *liveList) rejudge(old, now *entry, reason Reason) {
	var ends []func(Reason)
	ll.mu.Lock()
	for l := ll.head; l != nil; l = l.next {
		if l.entry != old || l.end == nil {
			continue
		}
		if reason != Allowed {
			ends = append(ends, l.end)
			l.end = nil
			continue
		}
		l.entry = now
		if l.timer != nil {
			l.timer.Stop()
			l.timer = nil
		}
		if until := now.until(); !until.IsZero() {
			l.timer = time.AfterFunc(time.Until(until), l.expire)
		}
	}
	ll.mu.Unlock()
	for _, end := range ends {
		end(reason)
	}
}
