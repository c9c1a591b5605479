package ratelimit

import "errors"

// ErrLease means that a charge needs more credits than the account holds, and that the store may
// have more.
var ErrLease = errors.New("credits must be leased first")

// Account holds the part of a tenant's credit balance that this process has leased from the store.
// Each tenant's subject has one. Safe for concurrent use.
type Account struct {
	// The lock of the subject s guards all fields of the account.
	s *Subject
	// leased is how many credits can be spent without asking the store.
	leased int64
	// rest is the number of credits that the store had outside all leases when it was last asked.
	rest int64
	// restKnown reports whether rest is still valid: the balance has not changed since the store was asked.
	restKnown bool
	// lease numbers the leases, from 1: Surrender begins another one.
	lease uint64
	// changes counts the calls that cleared restKnown.
	changes uint64
	// unwritten is how many credits were spent from leases, less refunds, and are not subtracted from the stored balance yet.
	unwritten int64
}

// Account returns the subject's account.
func (s *Subject) Account() *Account { return &s.ensureCold().account }

// OpenAccount returns the subject's account. It returns nil if the subject never used credits; then nothing is leased.
func (s *Subject) OpenAccount() *Account {
	if r := s.cold.Load(); r != nil {
		return &r.account
	}
	return nil
}

// Grant adds leased credits to the account. rest is the number of credits that the store has outside all leases. If rest is
// 0, charges beyond the lease are denied until the next Grant or Invalidate, instead of returning ErrLease.
func (a *Account) Grant(leased, rest int64) {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	a.leased += max(leased, 0)
	a.rest, a.restKnown = max(rest, 0), true
}

// Changes returns a number that differs after each change of the balance. Read it before asking
// the store, and pass it to GrantSince.
func (a *Account) Changes() uint64 {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	return a.changes
}

// GrantSince is Grant, but it ignores rest if the balance has changed since Changes returned the number changes. So a
// top-up of the balance between the lease and GrantSince is not missed.
func (a *Account) GrantSince(changes uint64, leased, rest int64) {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	a.leased += max(leased, 0)
	a.rest, a.restKnown = max(rest, 0), a.changes == changes
}

// Surrender empties the account and returns its unspent credits, for the caller to return the
// lease to the store. The next charge returns ErrLease.
func (a *Account) Surrender() (unspent int64) {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	unspent, a.leased = a.leased, 0
	a.lease++
	a.forgetRest()
	return unspent
}

// Invalidate forgets rest, because the balance in the store changed.
func (a *Account) Invalidate() {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	a.forgetRest()
}

// Held returns the unspent credits of the lease, and how many unleased credits the store had when it was last asked.
func (a *Account) Held() (leased, rest int64) {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	return a.leased, a.rest
}

func (a *Account) forgetRest() {
	a.restKnown = false
	a.changes++
}

// exhausted reports whether the store is known to have no credits beyond the lease.
func (a *Account) exhausted() bool { return a.restKnown && a.rest == 0 }

func (a *Account) fillStanding(st *Standing, p *Policy) {
	st.Policy = p
	st.Limit = a.leased + a.rest
	st.Remaining = st.Limit
}

// adjust takes delta more credits for a charge, or refunds credits if delta is negative. lease is the number of the lease
// that paid for the charge. adjust returns the change. A refund that comes after Surrender only goes to the stored balance,
// because the credits could be spent twice otherwise.
func (a *Account) adjust(lease uint64, delta int64) Spent {
	if delta < 0 && lease != a.lease {
		return Spent{Returned: -delta}
	}
	taken := min(delta, a.leased)
	a.take(taken)
	return Spent{Amount: taken, Shortfall: delta - taken}
}

func (a *Account) take(n int64) {
	a.leased -= n
	a.unwritten += n
}

// WithLock runs f under the lock of the subject, so that several calls of TakeSpent in f see the same moment. f must not
// block, and must not use the subject or its account in other ways.
func (s *Subject) WithLock(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// Written records that the store took an amount from TakeSpent from the balance.
func (a *Account) Written(s Spent) {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	a.unwritten -= s.Amount
	if s.Returned != 0 {
		a.forgetRest() // The stored balance grew after the store's last answer.
	}
}

// Unwritten returns how many credits were spent from leases, less refunds, and not passed to Written yet.
func (a *Account) Unwritten() int64 {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	return a.unwritten
}

// Spent is how a key's requests changed its tenant's credits.
type Spent struct {
	// Amount is the number of credits taken from leases, less refunds. It may be negative.
	Amount int64
	// Returned is the number of credits that were refunded after their lease was surrendered.
	Returned int64
	// Shortfall is the part of actual costs that the account could not pay.
	Shortfall int64
}

// TakeSpent returns and clears what this key's requests have spent since the last call. After a write of the result, call
// Account.Written; after a failed write, call PutBack, which undoes TakeSpent. None of these calls blocks.
func (s *Subject) TakeSpent() Spent {
	r := s.cold.Load()
	if r == nil {
		return Spent{}
	}
	return Spent{r.spent.Swap(0), r.returned.Swap(0), r.shortfall.Swap(0)}
}

// PutBack adds p to the next result of TakeSpent.
func (s *Subject) PutBack(p Spent) {
	if p == (Spent{}) {
		return
	}
	r := s.ensureCold()
	r.spent.Add(p.Amount)
	r.returned.Add(p.Returned)
	r.shortfall.Add(p.Shortfall)
}
