package ratelimit

import (
	"context"
	"errors"
)

// ErrUnavailable means that the shared counts are unreachable, and that the plan denies requests
// during an outage.
var ErrUnavailable = errors.New("the shared limits are unreachable")

// Outage is the rule for requests while the shared counts are unreachable.
type Outage uint8

const (
	// OutageLocal counts requests in this process, against this process's share of each limit.
	OutageLocal Outage = iota
	// OutageOpen allows all requests, and counts their cost.
	OutageOpen
	// OutageClosed returns ErrUnavailable.
	OutageClosed
)

// Remote holds the counts that several processes share. All methods are safe for concurrent use.
type Remote interface {
	// Ask takes the amounts that all asks need, or nothing for any of them, and sets the answers in asks. With peek, it takes
	// nothing. It blocks at most as long as a request may wait. After an error, it is unknown whether anything was taken.
	Ask(ctx context.Context, asks []Ask, peek bool) (taken bool, err error)
	// Unreachable reports whether the remote does not answer. It never blocks.
	Unreachable() bool
	// Adjust adds delta to the count of a quota, which does not fall below zero, and returns the new count. If the remote has no
	// count, it starts at Seed. Adjust blocks like Ask.
	Adjust(ctx context.Context, a *Ask, delta int64) (used int64, err error)
	// Reset clears the counts of asks. Of rates it clears those whose Need is set, of quotas it clears all. It blocks within
	// ctx.
	Reset(ctx context.Context, asks []Ask) error
	// Release frees the slots that the ask names. Renew keeps these slots for another Keep. Both calls only queue their command,
	// so they never block. The commands run soon, in the order of the calls, and are not retried after a failure.
	Release(a Ask)
	Renew(a Ask)
	// Nodes returns how many processes share the counts, at least 1. It never blocks.
	Nodes() int64
}

// Ask is one call to a remote counter for a request, and the answer to it. A remote counter holds
// all rates of a subject that come from the same place (plan, tenant or key), or all its quotas
// with the same kind of period, or all its slots for concurrent requests.
type Ask struct {
	Kind Kind
	// Owner is the tenant that Subject belongs to; the counts of one owner are stored together. Owner is "" for counts that
	// several tenants share.
	Subject, Owner string
	Origin         Origin
	// Calendar is the calendar of a quota. Start is the start of the quota's period in Unix seconds; it is 0 for Total.
	Calendar Calendar
	Start    int64
	// Keep is how many milliseconds a count is kept after its last use.
	Keep int64

	// Rates are set for the kind Rate only.
	Rates []RateAsk

	// Need must be taken: the cost from a quota, or 1 slot. Extra is taken as far as available.
	Need, Extra int64
	// Limit is the limit of the quota or of the concurrency limit.
	Limit int64
	// Seed is the count at which a quota starts that the remote has lost. Carry is an amount that was spent without asking; the
	// remote adds it to the count.
	Seed, Carry int64
	// Slots are the names of Need+Extra slots.
	Slots []string
	// Merge makes the remote raise the debt of each rate to its Hint, even if the remote has the count. It is set after an
	// outage, because the remote does not know the debts of the outage.
	Merge bool

	// Used is part of the answer: the count of the quota, or the number of slots in use, before this ask.
	Used int64
	// At is the time of the answer by the remote clock, in microseconds.
	At int64
	// Granted is how much was taken: nothing, or Need and a part of Extra.
	Granted int64
}

// RateAsk is the part of an Ask for one rate.
type RateAsk struct {
	scale *scale
	// Need and Extra are numbers of tokens, as in Ask.
	Need, Extra int64
	// Hold is how long extra tokens may be held before they are used, in units of the rate. The remote then treats the bucket as
	// owing at least Hold. So the limit is kept, whenever the tokens are used within that time.
	Hold int64
	// Hint is the debt of the bucket as far as this process knows. The remote uses it if it has lost the bucket, or if Ask.Merge
	// is set.
	Hint int64
	// Return is the number of held tokens that were not used. From is the At of the ask that took them. If the bucket was full
	// since then, the remote ignores the returned tokens, because a full bucket gains nothing.
	Return, From int64

	// Debt and Granted are the answer: the debt of the bucket before this ask, and the number of granted tokens.
	Debt    int64
	Granted int64
}

// Scale returns the unit of the rate: the cost of one token, the bucket's capacity, how many units
// a microsecond pays off, and a text that identifies these three and the rate.
func (r *RateAsk) Scale() (each, depth, perMicro int64, sign string) {
	return r.scale.each, r.scale.depth, r.scale.perMicro, r.scale.sign
}
