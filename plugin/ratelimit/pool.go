package ratelimit

import "time"

const (
	// recheck is for how long a denial is answered from memory before the remote is asked again, so
	// that a reset or a change by another process takes effect.
	recheck = time.Second
	// slotRecheck is the same for concurrency: a running request may end at any moment.
	slotRecheck = 50 * time.Millisecond
	// minHoldPart and maxHoldPart bound for how long tokens are held ahead of need: these parts of the time
	// in which the bucket fills, the lesser when it is nearly full, and at most holdCap.
	minHoldPart = 16
	maxHoldPart = 8
	holdCap     = 5 * time.Second
	// shortHoldPart bounds a hold from below, as the others do, and shortHoldRequests is how many requests it should
	// be enough for: while the bucket is nearly full, holding tokens costs some of its burst.
	shortHoldPart     = 64
	shortHoldRequests = 30
	// minExpected is from how many expected requests per hold on tokens are taken ahead of need.
	minExpected = 3
	// minGuess is from how many requests on a demand that is not known yet is guessed at.
	minGuess = 4
)

// lot is some tokens held ahead of need, until when, and since when by the remote clock.
type lot struct {
	n     int64
	until time.Time
	from  int64
}

// pool is what a process knows of a shared bucket, and what it holds of it. Under the subject's lock.
type pool struct {
	scale *scale
	// debt is what the bucket is known to owe at least, at that time: others may have
	// taken more since.
	debt int64
	at   time.Time
	// refreshedAt is when that was last asked for; zero: never.
	refreshedAt time.Time
	// unmerged reports that the remote must add the debt: it grew while the remote was unreachable.
	unmerged bool

	// lots are held, the older first.
	lots [2]lot
	// unused is to be given back.
	unused lot
	// demand per longest hold, smoothed; seen since that time.
	demand, seen float64
	since        time.Time
	// short reports that the last ask was granted in part. Then no request waits for more: tokens
	// are prefetched in the background, from askAgainAt on.
	short      bool
	askAgainAt time.Time
	// asking reports that tokens are being asked for ahead of need.
	asking bool
}

// owed returns the debt that is known, at now.
func (p *pool) owed(now time.Time) int64 {
	if p.debt == 0 {
		return 0
	}
	return max(0, p.debt-p.scale.units(now.Sub(p.at)))
}

// learn notes what the bucket owes at now.
func (p *pool) learn(now time.Time, debt int64) {
	p.debt, p.at = debt, now
	p.refreshedAt = now
}

// minHold is the time for which tokens may always be held.
func (p *pool) minHold() time.Duration {
	return min(p.scale.duration(p.scale.depth)/minHoldPart, holdCap)
}

// maxHold is the longest time for which tokens are held.
func (p *pool) maxHold() time.Duration {
	return min(p.scale.duration(p.scale.depth)/maxHoldPart, holdCap)
}

// hold returns for how long tokens may be held that are taken while the bucket owes debt:
// as long as the bucket would not have been full anyway, which costs no one a token.
func (p *pool) hold(debt int64) time.Duration {
	return max(p.shortHold(), min(p.maxHold(), p.scale.duration(debt)))
}

// shortHold is for how long tokens are held while the bucket is nearly full.
func (p *pool) shortHold() time.Duration {
	least := p.minHold()
	if d := p.expected(); d > 0 {
		if enough := float64(p.maxHold()) * shortHoldRequests / d; enough < float64(least) {
			return min(least, max(time.Duration(enough), p.scale.duration(p.scale.depth)/shortHoldPart))
		}
	}
	return least
}

// expected is how many requests are expected in the longest hold.
func (p *pool) expected() float64 {
	d := max(p.demand, p.seen)
	if p.demand == 0 && p.seen >= minGuess {
		if passed := p.at.Sub(p.since); passed > 0 {
			d = max(d, min(p.seen*float64(p.maxHold())/float64(passed), 8*p.seen))
		}
	}
	return d
}

// observe notes one request, taken or not.
func (p *pool) observe(now time.Time) {
	window := p.maxHold()
	if window <= 0 {
		return
	}
	passed := now.Sub(p.since)
	switch {
	case passed < window:
	case passed > 8*window:
		p.demand, p.seen, p.since = 0, 0, now
	default:
		// Of a request that came late, the windows before it were empty.
		perWindow := p.seen * float64(window) / float64(passed)
		if p.demand == 0 {
			p.demand = perWindow
		}
		p.demand += (perWindow - p.demand) / 2
		p.seen, p.since = 0, now
	}
	p.seen++
}

// target is how many tokens are worth holding while the bucket owes debt: what a third of a hold needs,
// less where that is much, and at most a share of a small part of the bucket, since other processes
// cannot use them.
func (p *pool) target(debt, nodes int64) int64 {
	window := p.maxHold()
	if window <= 0 {
		return 0
	}
	expected := p.expected() * (float64(p.hold(debt)) / float64(window))
	if expected < minExpected {
		return 0
	}
	wanted := min(expected/3, 30+expected/12)
	if debt < p.scale.depth/2 {
		wanted = expected * 3 / 4 // tokens that come back unused are missed by no one
	}
	return int64(min(wanted, float64(p.scale.depth/p.scale.each)/float64(8*nodes)))
}

// held returns the tokens in hand at now.
func (p *pool) held(now time.Time) int64 {
	var n int64
	for _, l := range p.lots {
		if now.Before(l.until) {
			n += l.n
		}
	}
	return n
}

// take takes one token from those in hand.
func (p *pool) take(now time.Time) bool {
	for i := range p.lots {
		if l := &p.lots[i]; l.n > 0 && now.Before(l.until) {
			l.n--
			return true
		}
	}
	return false
}

// put adds tokens to those in hand.
func (p *pool) put(now time.Time, n int64, until time.Time, from int64) {
	if n <= 0 {
		return
	}
	p.expire(now)
	if p.lots[0].n == 0 {
		p.lots[0], p.lots[1] = p.lots[1], lot{}
	}
	for i := range p.lots {
		if p.lots[i].n == 0 {
			p.lots[i] = lot{n, until, from}
			return
		}
	}
	p.lots[1].n += n // until the earlier time, and since it
}

// expire moves the tokens that have expired to those to return.
func (p *pool) expire(now time.Time) {
	for i := range p.lots {
		if l := &p.lots[i]; l.n > 0 && !now.Before(l.until) {
			if p.unused.n == 0 || l.from < p.unused.from {
				p.unused.from = l.from
			}
			p.unused.n += l.n
			l.n = 0
		}
	}
}

// putBack undoes take, as far as what was taken may still be held.
func (p *pool) putBack(now time.Time) {
	for i := range p.lots {
		if l := &p.lots[i]; now.Before(l.until) {
			l.n++
			return
		}
	}
}

// shouldPrefetch reports whether it is time to ask for tokens ahead of need.
func (p *pool) shouldPrefetch(now time.Time, nodes int64) bool {
	if p.asking || p.short && now.Before(p.askAgainAt) {
		return false
	}
	target := p.target(p.owed(now), nodes)
	return target > 0 && 2*p.held(now) <= target
}

// applyAnswer notes what was answered at now to an ask that was made then.
func (p *pool) applyAnswer(now time.Time, r *RateAsk, at int64, taken bool) {
	if r.scale != p.scale {
		return // the limit changed meanwhile: what it was says little
	}
	debt, granted := r.Debt, r.Granted
	if !taken {
		granted = 0
	}
	p.short = granted < r.Need+r.Extra
	if extra := granted - r.Need; taken && extra > 0 {
		debt = max(debt, r.Hold)
		p.put(now, extra, now.Add(p.scale.duration(max(r.Hold, min(p.scale.units(p.maxHold()), r.Debt)))), at)
	}
	if p.short {
		p.askAgainAt = now.Add(max(p.scale.duration(p.scale.each), p.hold(debt)/16))
	}
	p.learn(now, debt+granted*p.scale.each)
}

// retry returns how long it takes until a token is there at the least.
func (p *pool) retry(owed, each int64) time.Duration {
	return p.scale.duration(owed + each - max(p.scale.depth, each))
}

// pool returns the meter's shared bucket, under the newest policy. One that is new owes what
// the local bucket lacks.
func (m *meter) sharedPool(now time.Time) *pool {
	if m.pool == nil {
		if m.next != nil {
			m.applyNext(now)
		}
		m.pool = &pool{scale: m.policy.sharedScale(), at: now}
		if lack := float64(m.policy.Burst) - m.bucket.TokensAt(now); lack > 0 {
			m.pool.debt = int64(min(lack*float64(m.pool.scale.each), float64(m.pool.scale.depth)))
		}
		return m.pool
	}
	if m.next != nil {
		p := m.pool
		next := m.next.sharedScale()
		p.debt, p.at = next.convert(p.scale, p.owed(now)), now
		p.scale = next
		p.refreshedAt, p.short, p.lots, p.unused = time.Time{}, false, [2]lot{}, lot{}
		m.policy, m.bucket, m.next = m.next, newBucket(m.next), nil
	}
	return m.pool
}
