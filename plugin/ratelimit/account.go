package ratelimit

import "errors"

// ErrLease means that a charge needs more credits than the account holds, and that the
// store may have more.
var ErrLease = errors.New("credits must be leased first")

// Account is a tenant's credits as this process holds them: a lease of the balance in
// the store. Every tenant's subject has one. Safe for concurrent use.
type Account struct {
	// s holds the lock.
	s *Subject
	// leased is what may still be spent without asking.
	leased int64
	// rest is what the store had beyond all leases when last asked.
	rest int64
	// restKnown reports that rest still holds.
	restKnown bool
	// lease numbers the leases, from 1: Surrender begins another.
	lease uint64
	// changes counts Invalidate and Surrender.
	changes uint64
	// unwritten is what was spent of leases, less what was given back to them, and not
	// yet taken from the balance.
	unwritten int64
}

// Account returns the subject's account.
func (s *Subject) Account() *Account { return &s.ensureCold().account }

// OpenAccount returns the subject's account if it was ever asked for, nil if not: there is nothing
// leased then, and nothing to forget.
func (s *Subject) OpenAccount() *Account {
	if r := s.cold.Load(); r != nil {
		return &r.account
	}
	return nil
}

// Grant adds leased credits; rest is what the store still has beyond all leases. Where
// rest is 0, charges beyond the lease are denied until the next Grant or Invalidate, instead of ErrLease.
func (a *Account) Grant(leased, rest int64) {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	a.leased += max(leased, 0)
	a.rest, a.restKnown = max(rest, 0), true
}

// Changes counts what made the account forget that the store had no more. Taken before
// the store is asked, it lets GrantSince notice that the answer is outdated.
func (a *Account) Changes() uint64 {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	return a.changes
}

// GrantSince is Grant, but believes rest only if the balance did not change since
// Changes returned that number: a top-up between the lease and its grant would otherwise go unnoticed.
func (a *Account) GrantSince(changes uint64, leased, rest int64) {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	a.leased += max(leased, 0)
	a.rest, a.restKnown = max(rest, 0), a.changes == changes
}

// Surrender empties the account and returns what it held: the lease is going back.
// The next charge answers ErrLease.
func (a *Account) Surrender() (unspent int64) {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	unspent, a.leased = a.leased, 0
	a.lease++
	a.forgetRest()
	return unspent
}

// Invalidate forgets that the store had no more: its balance changed.
func (a *Account) Invalidate() {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	a.forgetRest()
}

// Held returns the unspent lease and the rest that the store had when last asked.
func (a *Account) Held() (leased, rest int64) {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	return a.leased, a.rest
}

func (a *Account) forgetRest() {
	a.restKnown = false
	a.changes++
}

// exhausted reports whether the store is known to have nothing beyond the lease.
func (a *Account) exhausted() bool { return a.restKnown && a.rest == 0 }

// fillStanding fills in the state of the balance.
func (a *Account) fillStanding(st *Standing, p *Policy) {
	st.Policy = p
	st.Limit = a.leased + a.rest
	st.Remaining = st.Limit
}

// adjust takes delta more, or gives it back, for a charge made from the lease of that
// number, and returns how. What is given back after that lease was surrendered reaches
// the balance through the store alone, or it could be spent twice.
func (a *Account) adjust(lease uint64, delta int64) Spent {
	if delta < 0 && lease != a.lease {
		return Spent{Returned: -delta}
	}
	taken := min(delta, a.leased)
	a.take(taken)
	return Spent{Amount: taken, Shortfall: delta - taken}
}

// take takes n from the lease.
func (a *Account) take(n int64) {
	a.leased -= n
	a.unwritten += n
}

// WithLock runs f while nothing is spent from the subject's account or given back to it: what f takes with TakeSpent
// from several keys belongs together. f must not block, nor use the subject or its account.
func (s *Subject) WithLock(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// Written notes that what TakeSpent returned was taken from the balance.
func (a *Account) Written(s Spent) {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	a.unwritten -= s.Amount
	if s.Returned != 0 {
		a.forgetRest() // the balance has more now than when the store was asked
	}
}

// Unwritten returns what was spent of leases, less what was given back to them, and not
// yet reported as Settled.
func (a *Account) Unwritten() int64 {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	return a.unwritten
}

// Spent is what a key's requests spent of its tenant's credits.
type Spent struct {
	// Amount was taken from leases, less what was given back to them: it may be negative.
	Amount int64
	// Returned was given back after the lease that it was taken from was surrendered.
	Returned int64
	// Shortfall could not be taken.
	Shortfall int64
}

// TakeSpent returns and forgets what this key's requests spent since the last call;
// PutBack undoes it after a failed write, and Account.Settled is called after a
// successful one. Neither blocks.
func (s *Subject) TakeSpent() Spent {
	r := s.cold.Load()
	if r == nil {
		return Spent{}
	}
	return Spent{r.spent.Swap(0), r.returned.Swap(0), r.shortfall.Swap(0)}
}

// PutBack adds to what TakeSpent will return.
func (s *Subject) PutBack(p Spent) {
	if p == (Spent{}) {
		return
	}
	r := s.ensureCold()
	r.spent.Add(p.Amount)
	r.returned.Add(p.Returned)
	r.shortfall.Add(p.Shortfall)
}
