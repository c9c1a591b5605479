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
	// OutageLocal counts in this process, against its share of each limit.
	OutageLocal Outage = iota
	// OutageOpen allows all requests, and counts their cost.
	OutageOpen
	// OutageClosed returns ErrUnavailable.
	OutageClosed
)

// Remote holds the counts that several processes share. All methods are safe for concurrent use.
type Remote interface {
	// Ask takes what every ask needs, or nothing from any, and sets the answers in asks. With peek
	// it takes nothing. It blocks at most as long as a request may wait. After an error, it is
	// unknown whether anything was taken.
	Ask(ctx context.Context, asks []Ask, peek bool) (taken bool, err error)
	// Unreachable reports whether the remote does not answer. It never blocks.
	Unreachable() bool
	// Adjust adds delta to a quota's count, which does not fall below zero, and returns the new
	// count. A missing count begins at Seed. It blocks like Ask.
	Adjust(ctx context.Context, a *Ask, delta int64) (used int64, err error)
	// Reset clears the counts of asks: of rates, those with a Need; of quotas, all. It blocks
	// within ctx.
	Reset(ctx context.Context, asks []Ask) error
	// Release frees the slots that the ask names, and Renew keeps them for another Keep. Both run
	// soon after, in the order of the calls. They never block, and do not retry after a failure.
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
	// Owner is the tenant that Subject belongs to: the counts of one owner are kept together. It
	// is "" for counts that several tenants share.
	Subject, Owner string
	Origin         Origin
	// Calendar is that of a quota, and Start its period's start in Unix seconds; 0 for Total.
	Calendar Calendar
	Start    int64
	// Keep is how many milliseconds a count is kept after its last use.
	Keep int64

	// Rates are set for the kind Rate only.
	Rates []RateAsk

	// Need must be taken: the cost from a quota, or 1 slot. Extra is taken as far as available.
	Need, Extra int64
	// Limit is that of the quota or of concurrency.
	Limit int64
	// Seed is the start value of a quota's count that the remote has lost. Carry was spent without
	// asking, and is added.
	Seed, Carry int64
	// Slots are the names of Need+Extra slots.
	Slots []string
	// Merge raises each rate's debt to its Hint even if the remote has the count: the debts of an
	// outage are missing there.
	Merge bool

	// Used is the answer: the quota's count, or the slots in use, before this ask.
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
	// Hold is how long extra tokens may be held before use, in units. The remote treats the bucket
	// as owing at least Hold, so that the limit is kept at any later time of use.
	Hold int64
	// Hint is the debt that this process knows, for a bucket that the remote has lost (see
	// Ask.Merge).
	Hint int64
	// Return is the number of held tokens that were not used, and From the At of the ask that took
	// them. The remote ignores them if the bucket was full since: a full bucket gains nothing.
	Return, From int64

	// Debt, the debt before this ask, and Granted are the answer.
	Debt    int64
	Granted int64
}

// Scale returns the unit of the rate: the cost of one token, the bucket's capacity, how many units
// a microsecond pays off, and a text that identifies these three and the rate.
func (r *RateAsk) Scale() (each, depth, perMicro int64, sign string) {
	return r.scale.each, r.scale.depth, r.scale.perMicro, r.scale.sign
}
