// Package ratelimit decides whether a request may spend what it costs: token
// buckets, calendar quotas, concurrent requests and credits, charged all or nothing.
//
// A Policy is one line of a plan ("300/m burst 60"), a Subject is who it is counted
// for (a key, a tenant, an address), and a Line is the one applied to the other.
// A Bill carries the lines of one request to a Limiter, which either takes from all
// of them or from none, and returns the state of each in the Outcome.
package ratelimit

import (
	"context"
	"time"
)

// Kind is what a policy counts.
type Kind uint8

const (
	// Rate is a token bucket: Limit requests per Period, at most Burst at once.
	Rate Kind = iota + 1
	// Quota is Limit units of cost per calendar day or month in UTC, or for ever.
	Quota
	// Concurrency is how many requests may run at the same time.
	Concurrency
	// Credits is a tenant's prepaid balance.
	Credits
)

// Per is whom a policy is counted for.
type Per uint8

const (
	PerKey Per = iota + 1
	PerTenant
	PerAddress
)

// Calendar is the period after which a quota begins again.
type Calendar uint8

const (
	Day Calendar = iota + 1
	Month
	// Total never begins again: a key's own credits_limit.
	Total
)

// Policy is one limit, as a plan, a tenant or a key states it. Immutable once made.
type Policy struct {
	Kind Kind
	Per  Per
	// Limit is the number of requests per Period (Rate), units per Calendar (Quota)
	// or requests at once (Concurrency). Unused for Credits.
	Limit int64
	// Period of a Rate.
	Period time.Duration
	// Burst of a Rate: the bucket's size. Equal to Limit unless given.
	Burst int64
	// Calendar of a Quota.
	Calendar Calendar
	// Name as written, with ";tenant" or ";address" appended where that was written:
	// "60/m", "100000/month", "concurrency", "credits". It is the policy's name in
	// the RateLimit headers and in violated-policies.
	Name string

	// fixed is what the headers say of the policy in every response, made once by
	// the constructors. A Policy put together by hand lacks it: then it is computed at each use.
	fixed fixed
}

// MaxLines bounds the policies that one request may be subject to, so that an
// Outcome has a fixed size and needs no allocation. Plans, tenants and keys that
// together state more are rejected when they are configured.
const MaxLines = 16

// Line is a policy counted for a subject. Lines are resolved when a key is loaded or
// its plan changes, not per request.
type Line struct {
	Policy  *Policy
	Subject *Subject
	// meter is where the local limiter counts; nil for kinds that count in the subject.
	meter *meter
	// origin of the set that the line is of.
	origin Origin
}

// Party is one subject of a bill with the lines that are counted for it. The zero
// Party has no subject.
type Party struct {
	// Subject is set whenever the party takes part, also where it has no lines: what a
	// key spends of its tenant's credits is noted at the key.
	Subject *Subject
	// Lines all count in Subject.
	Lines []Line
}

// Bill is what one request would spend. The caller owns it, may reuse it, and must
// not change it until it was released.
type Bill struct {
	// Cost is taken from quotas and credits; rates and concurrency count 1.
	Cost int64
	// The parties in the order in which a limiter locks them.
	Address, Tenant, Key Party
	// NoConcurrency leaves concurrency out: for callers that hold no request open.
	NoConcurrency bool
	// Outage says what holds while a limiter that shares its counts can't reach them.
	Outage Outage

	// held reports that Charge counted the bill among its subjects' live requests, so that
	// Release ends exactly what was begun.
	held bool
	// lease numbers the lease that credits were taken from: what is given back
	// after that lease was surrendered goes to the store, not into the next one.
	lease uint64
	// slots are what a Shared limiter holds for the request; nil of Local, and where no
	// concurrency limit applies.
	slots *heldSlots
}

// Standing is the state of one policy after a request was decided.
type Standing struct {
	Policy *Policy
	// Limit is the bucket's size, the quota or the number of slots; for credits the
	// balance itself, since there is nothing it was filled to.
	Limit int64
	// Remaining is how many requests of cost 1 could still be made now.
	Remaining int64
	// Reset is how long until Remaining is Limit again; 0 when it is.
	Reset time.Duration
	// Retry is how long until this same request would pass this policy, where it denied the request.
	// 0 where that cannot be known (credits).
	Retry time.Duration
	// Denied reports that this policy denied the request.
	Denied bool
}

// Outcome is a limiter's decision, and the state of every policy. Its zero value means: no policy,
// nothing denied.
type Outcome struct {
	// Denied reports that nothing was taken, because at least one policy denied the request.
	Denied bool
	// Kind of the policy that gives the denial its reason: the first that denied
	// in the order rate, quota, concurrency, credits.
	Kind Kind
	// Standings of the first N policies are set.
	Standings [MaxLines]Standing
	N         int
}

// Limiter charges requests. Implementations: Local (this process's memory), and one
// that shares its counts with other nodes. A Limiter may block within ctx when it has to ask
// elsewhere; Local never does.
type Limiter interface {
	// Charge takes one request of b.Cost from every line, or nothing from any,
	// and fills o. now may be older than a former call's; time then does not advance.
	// An error means that it could not be decided; nothing was taken. ErrLease: the
	// tenant's Account must be granted more credits first, or a rest of 0.
	// ErrDropped: a subject was dropped meanwhile and must be looked up again.
	Charge(ctx context.Context, now time.Time, b *Bill, o *Outcome) error
	// Peek fills o as Charge would, and takes nothing: the Standings are those before
	// the request.
	Peek(ctx context.Context, now time.Time, b *Bill, o *Outcome) error
	// Release ends the request's concurrency. Exactly once per Charge that took; it
	// does nothing for a bill that holds none, so a second call does no harm.
	Release(b *Bill)
	// Adjust changes what an earlier Charge of b took from quotas and credits by delta.
	// Negative gives back, and is ignored for a quota whose period has since ended; never
	// below zero spent. Positive takes more: a quota may end above its limit, an account ends
	// at 0 at the least, and the shortfall, what it could not take, is returned and noted
	// at the key. chargedAt is the now of that Charge. What a positive delta needs beyond
	// the lease has to be leased before, or it counts as shortfall. Call it before
	// Release: until then the subjects can't be dropped. No more is given back than b.Cost.
	Adjust(ctx context.Context, chargedAt time.Time, b *Bill, delta int64) (shortfall int64)
	// Reset refills the rates and quotas counted for p's subject: those with these names, or all.
	// owner is the subject of the tenant that p belongs to. An error means that shared counts could not be reached.
	Reset(ctx context.Context, now time.Time, owner *Subject, p Party, names ...string) error
}
