package ratelimit

import "errors"

// ErrLease means that a charge needs more credits than the account holds, and that the store may
// have more.
var ErrLease = errors.New("credits must be leased first")

// Account holds the part of a tenant's credit balance that this process has leased from the store.
// Each tenant's subject has one. Safe for concurrent use.
type Account struct {
	// The lock of s guards all fields.
	s *Subject
	// leased is how many credits can be spent without asking the store.
	leased int64
	// rest is how many credits the store had beyond all leases at the last answer.
	rest int64
	// restKnown reports that the balance has not changed since that answer.
	restKnown bool
	// lease numbers the leases, from 1: Surrender begins another one.
	lease uint64
	// changes counts the calls that cleared restKnown.
	changes uint64
	// unwritten is the spent part of leases, less refunds, that is not yet taken from the stored
	// balance.
	unwritten int64
}

// Account returns the subject's account.
func (s *Subject) Account() *Account { return &s.ensureCold().account }

// OpenAccount returns the subject's account, nil if none was ever used: then nothing is leased.
func (s *Subject) OpenAccount() *Account {
	if r := s.cold.Load(); r != nil {
		return &r.account
	}
	return nil
}

// Grant adds leased credits; rest is how many the store has beyond all leases. With a rest of 0,
// charges beyond the lease are denied, instead of ErrLease, until the next Grant or Invalidate.
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

// GrantSince is Grant, but ignores rest if the balance changed after Changes returned that number.
// So a top-up between the lease and its grant is not missed.
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

// Held returns the unspent lease, and the rest that the store had at the last answer.
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

// adjust takes delta more credits, or refunds them if negative, for a charge from the lease of
// that number. It returns the change. A refund after Surrender goes to the balance through the
// store only, or the credits could be spent twice.
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

// WithLock runs f under the subject's lock, so that several TakeSpent calls in f see one moment. f
// must not block, nor use the subject or its account.
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

// Unwritten returns the spent part of leases, less refunds, that was not yet passed to Written.
func (a *Account) Unwritten() int64 {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	return a.unwritten
}

// Spent is how a key's requests changed its tenant's credits.
type Spent struct {
	// Amount was taken from leases, less refunds: it may be negative.
	Amount int64
	// Returned was refunded after the lease that it came from was surrendered.
	Returned int64
	// Shortfall is the part of actual costs that the account could not pay.
	Shortfall int64
}

// TakeSpent returns and clears what this key's requests spent since the last call. After a failed
// write, PutBack undoes it; after a successful one, call Account.Written. Neither blocks.
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
