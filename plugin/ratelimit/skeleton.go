package ratelimit

import (
	"context"
	"errors"
	"time"
)

type meter struct{}

// Subject is who policies are counted for, with its buckets, counters and live
// requests. Made by NewSubject; safe for concurrent use.
type Subject struct{}

// NewSubject returns a subject with full buckets and nothing spent. id names it among
// nodes and in the store: "k:<keyspace>:<key id>", "t:<keyspace>:<slug>", "a:…".
func NewSubject(id string) *Subject { panic("x") }

// ID returns what NewSubject was given.
func (s *Subject) ID() string { panic("x") }

// Origin tells apart the sets of policies bound to one subject.
type Origin uint8

const (
	FromPlan Origin = iota // the plan's lines, or the tenant's that replace them
	FromKey                // the key's own lines
	NumOrigins
)

// Bind makes policies, all of one origin, the ones counted for s, and returns their
// lines. What was spent is carried over from the line they follow (same period first, then
// by position): left = max(0, new size − spent). epoch orders configurations: a call
// with an older epoch than the last binds nothing and returns lines that count in the
// buckets as they now are. Equal epoch and equal policies return equal lines, unallocated state kept.
func (s *Subject) Bind(epoch int64, origin Origin, policies []*Policy) []Line { panic("x") }

// LoadUsage sets the durable counts a subject starts with; ignored once loaded.
func (s *Subject) LoadUsage(start time.Time, c Calendar, used int64) { panic("x") }

// NeedsUsage says whether quota lines are bound whose counts have not been loaded yet.
func (s *Subject) NeedsUsage() bool { panic("x") }

// UsageLoaded marks the durable counts as loaded.
func (s *Subject) UsageLoaded() { panic("x") }

// Idle says that s is as new: buckets full, nothing live, every count flushed. Such a
// subject may be dropped and made again.
func (s *Subject) Idle(now time.Time) bool { panic("x") }

// Counted is one durable count that changed.
type Counted struct {
	Subject  string
	Calendar Calendar
	Start    time.Time
	Used     int64
}

// Unflushed appends the quota counts that changed since they were last confirmed.
func (s *Subject) Unflushed(dst []Counted) []Counted { panic("x") }

// Flushed confirms that those counts were stored.
func (s *Subject) Flushed(c []Counted) { panic("x") }

// Reset refills the buckets and forgets the current quota counts: POST …/limits/reset.
// Empty names resets everything, else the policies of those names.
func (s *Subject) Reset(now time.Time, names ...string) { panic("x") }

// TakeSpent returns and forgets what this key's requests spent of its tenant's credits
// since the last call (net of what was given back, so it may be negative), and the shortfall; PutBack undoes it after a failed write.
func (s *Subject) TakeSpent() (amount, shortfall int64) { panic("x") }
func (s *Subject) PutBack(amount, shortfall int64)      { panic("x") }

// ErrLease says that a charge needs more credits than the account holds, and that the
// store may have more.
var ErrLease = errors.New("credits must be leased first")

// Account is a tenant's credits as this process holds them: a lease of the balance in
// the store. Every tenant's subject has one.
type Account struct{}

// Account returns the subject's account.
func (s *Subject) Account() *Account { panic("x") }

// Grant adds leased credits; rest is what the store still has beyond all leases. Where
// rest is 0, charges beyond the lease are refused until the next Grant or Invalidate, instead of ErrLease.
func (a *Account) Grant(leased, rest int64) { panic("x") }

// Surrender empties the account and returns what it held: the lease is going back.
// The next charge answers ErrLease.
func (a *Account) Surrender() (unspent int64) { panic("x") }

// Invalidate forgets that the store had no more: its balance changed.
func (a *Account) Invalidate() { panic("x") }

// Held returns the unspent lease and the rest that the store had when last asked.
func (a *Account) Held() (leased, rest int64) { panic("x") }

// Local is the Limiter of one process.
type Local struct{}

// NewLocal returns a Local.
func NewLocal() *Local { panic("x") }

func (*Local) Charge(ctx context.Context, now time.Time, b *Bill, o *Outcome) error { panic("x") }
func (*Local) Peek(ctx context.Context, now time.Time, b *Bill, o *Outcome) error   { panic("x") }
func (*Local) Release(b *Bill)                                                      { panic("x") }
func (*Local) Adjust(ctx context.Context, chargedAt time.Time, b *Bill, delta int64) int64 {
	panic("x")
}
