package ratelimit

import "time"

const (
	// recheck is how long a denial is answered from memory. After that time Redis is asked again, because another process may
	// have reset or changed the limit.
	recheck = time.Second
	// slotRecheck is recheck for concurrency limits: a running request may end at any moment.
	slotRecheck = 50 * time.Millisecond
	// Tokens are held ahead of need for between 1/minHoldPart and 1/maxHoldPart of the time in
	// which the bucket fills: the shorter time for a nearly full bucket. holdCap is the maximum.
	minHoldPart = 16
	maxHoldPart = 8
	holdCap     = 5 * time.Second
	// If a bucket is nearly full, tokens that a node holds reduce the burst that other nodes may use. A node then holds tokens
	// for a shorter time: for shortHoldRequests requests, but at least for 1/shortHoldPart of the time in which the bucket
	// fills.
	shortHoldPart     = 64
	shortHoldRequests = 30
	// minExpected is the number of expected requests per hold from which tokens are prefetched.
	minExpected = 3
	// minGuess is the number of requests from which an unknown demand is estimated.
	minGuess = 4
)

// lot is a number of tokens that are held until a time. from is when they were taken, by the clock of Redis.
type lot struct {
	n     int64
	until time.Time
	from  int64
}

// pool is what a process knows of a shared bucket, and the tokens that it holds. The subject's
// lock guards it.
type pool struct {
	scale *scale
	// debt is the least number of units that the bucket owed at the time at. Other processes may have taken more since then.
	debt int64
	at   time.Time
	// refreshedAt is when the remote last returned the debt; zero for never.
	refreshedAt time.Time
	// unmerged reports whether a part of debt was spent while Redis was unreachable, so that Redis does not know that part yet.
	unmerged bool

	// lots are the held tokens, the older lot first.
	lots [2]lot
	// unused are tokens to return to the remote.
	unused lot
	// demand is the smoothed number of requests per maxHold. seen counts the requests after since.
	demand, seen float64
	since        time.Time
	// short reports whether the last ask got fewer tokens than it asked for. Then no request waits for more tokens: from
	// askAgainAt on, a prefetch fetches them in the background.
	short      bool
	askAgainAt time.Time
	// asking reports whether a prefetch is running.
	asking bool
}

// owed returns the known debt at now.
func (p *pool) owed(now time.Time) int64 {
	if p.debt == 0 {
		return 0
	}
	return max(0, p.debt-p.scale.units(now.Sub(p.at)))
}

// learn records the bucket's debt at now.
func (p *pool) learn(now time.Time, debt int64) {
	p.debt, p.at = debt, now
	p.refreshedAt = now
}

// minHold is the hold of a nearly full bucket with moderate demand.
func (p *pool) minHold() time.Duration {
	return min(p.scale.duration(p.scale.depth)/minHoldPart, holdCap)
}

// maxHold is the longest hold.
func (p *pool) maxHold() time.Duration {
	return min(p.scale.duration(p.scale.depth)/maxHoldPart, holdCap)
}

// hold returns how long tokens may be held that are taken while the bucket owes debt: until the debt is paid off. The bucket
// would not be full before then, so holding the tokens takes none away from others.
func (p *pool) hold(debt int64) time.Duration {
	return max(p.shortHold(), min(p.maxHold(), p.scale.duration(debt)))
}

// shortHold returns the hold of a nearly full bucket.
func (p *pool) shortHold() time.Duration {
	least := p.minHold()
	if d := p.expected(); d > 0 {
		if enough := float64(p.maxHold()) * shortHoldRequests / d; enough < float64(least) {
			return min(least, max(time.Duration(enough), p.scale.duration(p.scale.depth)/shortHoldPart))
		}
	}
	return least
}

// expected returns the number of requests expected during maxHold.
func (p *pool) expected() float64 {
	d := max(p.demand, p.seen)
	if p.demand == 0 && p.seen >= minGuess {
		if passed := p.at.Sub(p.since); passed > 0 {
			d = max(d, min(p.seen*float64(p.maxHold())/float64(passed), 8*p.seen))
		}
	}
	return d
}

// observe records one request as demand, whether it is denied or not.
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
		// The windows before a late request were empty.
		perWindow := p.seen * float64(window) / float64(passed)
		if p.demand == 0 {
			p.demand = perWindow
		}
		p.demand += (perWindow - p.demand) / 2
		p.seen, p.since = 0, now
	}
	p.seen++
}

// target returns how many tokens to hold while the bucket owes debt: a third of the demand during one hold, and less if the
// demand is high. It is at most one in 8*nodes of the burst, because other processes cannot use held tokens.
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
		wanted = expected * 3 / 4 // Unused tokens are returned before the bucket is full, so holding more tokens takes none away from others.
	}
	return int64(min(wanted, float64(p.scale.depth/p.scale.each)/float64(8*nodes)))
}

// held returns the number of held tokens at now.
func (p *pool) held(now time.Time) int64 {
	var n int64
	for _, l := range p.lots {
		if now.Before(l.until) {
			n += l.n
		}
	}
	return n
}

// take takes one of the held tokens, and reports whether there was one.
func (p *pool) take(now time.Time) bool {
	for i := range p.lots {
		if l := &p.lots[i]; l.n > 0 && now.Before(l.until) {
			l.n--
			return true
		}
	}
	return false
}

// put adds n held tokens.
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
	p.lots[1].n += n // The lot keeps its own times, which are earlier, and gets the new tokens.
}

// expire moves held tokens whose time has ended to unused.
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

// putBack undoes take. If every lot has expired, it does nothing.
func (p *pool) putBack(now time.Time) {
	for i := range p.lots {
		if l := &p.lots[i]; now.Before(l.until) {
			l.n++
			return
		}
	}
}

// shouldPrefetch reports whether to fetch tokens ahead of need now.
func (p *pool) shouldPrefetch(now time.Time, nodes int64) bool {
	if p.asking || p.short && now.Before(p.askAgainAt) {
		return false
	}
	target := p.target(p.owed(now), nodes)
	return target > 0 && 2*p.held(now) <= target
}

// applyAnswer records an answer received at now. at is the remote clock's time of the answer.
func (p *pool) applyAnswer(now time.Time, r *RateAsk, at int64, taken bool) {
	if r.scale != p.scale {
		return // The limit changed after the ask, so the answer is in another unit.
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

// retry returns the least time until the bucket has a token again, where a token costs each units and the bucket owes owed
// units.
func (p *pool) retry(owed, each int64) time.Duration {
	return p.scale.duration(owed + each - max(p.scale.depth, each))
}

// sharedPool returns the meter's shared bucket, under the newest policy. A new pool owes the
// tokens that the local bucket lacks.
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
