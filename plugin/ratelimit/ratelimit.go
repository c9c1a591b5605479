// Package ratelimit decides whether a request may spend its cost: token buckets, calendar quotas,
// concurrent requests and credits, charged all or nothing.
//
// A Policy is one limit of a plan ("300/m burst 60"). A Subject is the key, tenant or address that
// requests are counted for. A Line is a policy applied to a subject. A Bill carries the lines of
// one request to a Limiter, which takes from all of them or from none, and returns the state of
// each in the Outcome.
package ratelimit

import (
	"context"
	"time"
)

// Kind is the kind of a policy.
type Kind uint8

const (
	// Rate is a token bucket: Limit requests per Period, at most Burst at once.
	Rate Kind = iota + 1
	// Quota is Limit units of cost per calendar day or month in UTC, or in total.
	Quota
	// Concurrency is Limit requests running at the same time.
	Concurrency
	// Credits is a tenant's prepaid balance.
	Credits
)

// Per is the kind of subject that a policy counts for.
type Per uint8

const (
	PerKey Per = iota + 1
	PerTenant
	PerAddress
)

// Calendar is the period after which a quota's count begins at 0 again.
type Calendar uint8

const (
	Day Calendar = iota + 1
	Month
	// Total never ends: it is the calendar of a key's credits_limit.
	Total
)

// Policy is one limit, as a plan, a tenant or a key states it. Immutable.
type Policy struct {
	Kind Kind
	Per  Per
	// Limit is the number of requests per Period (Rate), of units per Calendar (Quota) or of
	// requests at once (Concurrency). Unused for Credits.
	Limit int64
	// Period is the time in which Limit requests are allowed. It is set only for a Rate.
	Period time.Duration
	// Burst of a Rate is the bucket's size. The default is Limit.
	Burst int64
	// Calendar is the period in which Limit units are allowed. It is set only for a Quota.
	Calendar Calendar
	// Name is the policy as written, in the RateLimit headers and in violated-policies: "60/m",
	// "100000/month", "concurrency", "credits". A written scope is appended as ";tenant" or
	// ";address".
	Name string

	// fixed is computed by the constructors. For a Policy that was made without a constructor, it is computed at each use.
	fixed fixed
}

// MaxLines is the largest number of policies for one request, so that an Outcome has a fixed size
// and needs no allocation. A configuration or record that exceeds it is rejected.
const MaxLines = 16

// Line is a policy counted for a subject. Lines are made when a key is loaded or its plan changes,
// not per request.
type Line struct {
	Policy  *Policy
	Subject *Subject
	// meter is the token bucket of a rate. It is nil for other kinds, whose counts are in the subject.
	meter *meter
	// origin is the origin of the policy that the caller passed to Bind.
	origin Origin
}

// Party is one subject of a bill, with the lines counted for it. The zero Party has no subject.
type Party struct {
	// Subject is set whenever the key, tenant or address takes part, even without lines. The key's subject records the credits
	// that the key's requests spend.
	Subject *Subject
	// Lines all count for Subject.
	Lines []Line
}

// Bill is the cost of one request and the lines that it is charged to. The caller owns it and may
// reuse it, but must not change it before Release.
type Bill struct {
	// Cost is taken from quotas and credits; rates and concurrency count 1.
	Cost int64
	// Address, Tenant and Key are the parties of the bill, in the order in which a limiter locks them.
	Address, Tenant, Key Party
	// NoConcurrency skips concurrency limits. It is for callers that hold no request open, such as /v1/verify.
	NoConcurrency bool
	// Outage states how a request is decided while the limiter cannot reach its shared counts.
	Outage Outage

	// held reports whether Charge has added the bill to the live requests of its subjects. Release must then subtract it.
	held bool
	// lease is the number of the lease that paid the credits of the bill. If that lease was surrendered, a refund goes to the
	// stored balance and not into the next lease.
	lease uint64
	// slots are the concurrency slots that a Shared limiter holds for the request. It is nil if no shared concurrency limit
	// applies.
	slots *heldSlots
}

// Standing is the state of one policy after the decision about a request.
type Standing struct {
	Policy *Policy
	// Limit is the bucket's size, the quota, the number of slots, or the balance of credits.
	Limit int64
	// Remaining is how many requests of cost 1 could still be made now.
	Remaining int64
	// Reset is the time until Remaining equals Limit again. It is 0 if they are equal now.
	Reset time.Duration
	// Retry is the time after which this policy would let the denied request pass. It is 0 if the policy did not deny it, and
	// for credits, where the time is unknown.
	Retry time.Duration
	// Denied reports that this policy denied the request.
	Denied bool
}

// Outcome is a limiter's decision and the state of every policy. The zero value has no policy and
// denies nothing.
type Outcome struct {
	// Denied reports that at least one policy denied the request, so nothing was taken.
	Denied bool
	// Kind is the kind of limit that is given as the reason of the denial. If several kinds denied the request, it is the first
	// of them in the order of the constants.
	Kind Kind
	// Only the first N Standings are set.
	Standings [MaxLines]Standing
	N         int
}

// Limiter charges requests. Local counts in this process's memory and does not block. Shared
// counts together with other processes, and may block within ctx to ask the remote.
type Limiter interface {
	// Charge takes one request of b.Cost from every line, or nothing from any line, and fills o. If now is earlier than the now
	// of a former call, the later time is used. After an error, nothing was decided or taken. ErrLease means that the tenant's
	// Account needs a Grant first, even one with a rest of 0. ErrDropped means that a subject was dropped after the caller had
	// found it, so the caller must look it up again.
	Charge(ctx context.Context, now time.Time, b *Bill, o *Outcome) error
	// Peek fills o as Charge would, with the Standings before the request, and takes nothing.
	Peek(ctx context.Context, now time.Time, b *Bill, o *Outcome) error
	// Release frees the request's place in the concurrency limits. Call it once after each Charge that took something. For a
	// bill that holds nothing, it does nothing.
	Release(b *Bill)
	// Adjust changes by delta the amount that an earlier Charge of b took from quotas and credits. chargedAt is the now of that
	// Charge. Call Adjust before Release, so that no subject can be dropped.
	//
	// A negative delta is a refund of at most b.Cost. A quota whose period has ended ignores a refund, and no count falls below
	// zero. A positive delta takes more, and a quota may then exceed its limit. Credits are taken from the lease only, so the
	// caller leases enough before. Adjust returns the shortfall, the part that the lease could not cover, and the key records
	// it.
	Adjust(ctx context.Context, chargedAt time.Time, b *Bill, delta int64) (shortfall int64)
	// Reset refills the rates and quotas that are counted for the subject of p: the limits with the given names, or all limits
	// if there are no names. owner is the subject of the tenant that p belongs to. An error means that the shared counts could
	// not be reached.
	Reset(ctx context.Context, now time.Time, owner *Subject, p Party, names ...string) error
}
