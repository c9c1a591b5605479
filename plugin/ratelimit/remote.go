package ratelimit

import (
	"context"
	"errors"
)

// ErrUnavailable means that the shared counts are unreachable, and that the plan denies requests then.
var ErrUnavailable = errors.New("the shared limits do not answer")

// Outage is how requests are decided while the shared counts are unreachable.
type Outage uint8

const (
	// OutageLocal counts here, against this process's share of each limit.
	OutageLocal Outage = iota
	// OutageOpen lets pass, and counts what was spent.
	OutageOpen
	// OutageClosed answers ErrUnavailable.
	OutageClosed
)

// Remote is where several machines share their counts. All methods may be called by many
// goroutines at once.
type Remote interface {
	// Ask takes what every one of the asks needs, or nothing from any, and fills in their
	// answers. Blocks for as long as a request may wait, at most. An error means that it is not
	// known whether anything was taken.
	Ask(ctx context.Context, asks []Ask, peek bool) (taken bool, err error)
	// Unreachable reports whether the remote does not answer. Never blocks.
	Unreachable() bool
	// Adjust adds delta to what was spent of a quota, not below zero, and returns what is spent then.
	// It does so also where the count is not known: from Seed. Blocks as Ask does.
	Adjust(ctx context.Context, a *Ask, delta int64) (used int64, err error)
	// Reset clears counts: of rates those with a Need, of quotas all. Blocks within ctx.
	Reset(ctx context.Context, asks []Ask) error
	// Release ends the slots that the ask names, and Renew has them kept for another while. Soon, in the order
	// of the calls, and never blocking; what fails is not repeated.
	Release(a Ask)
	Renew(a Ask)
	// Nodes is how many machines share the counts: at least 1. Never blocks.
	Nodes() int64
}

// Ask is what a request asks of one count, and the answer. All rates that are counted for a subject by
// one origin are one count, all its quotas of one calendar are, and so is its concurrency.
type Ask struct {
	Kind Kind
	// Subject counted for, and Owner, the tenant that it belongs to: the counts of one
	// owner are kept together. Owner is "" for counts that several tenants share.
	Subject, Owner string
	Origin         Origin
	// Calendar and Start of a quota's period, in Unix seconds; 0 for Total.
	Calendar Calendar
	Start    int64
	// Keep is for how many milliseconds a count is kept after its last use.
	Keep int64

	// Rates of a count of that kind.
	Rates []RateAsk

	// Need is what must be taken of a quota (its cost) or of concurrency (1); Extra as much more as there is.
	Need, Extra int64
	// Limit of a quota or of concurrency.
	Limit int64
	// Seed is what a quota's count begins with where it is not known, and Carry what was spent of it
	// without asking.
	Seed, Carry int64
	// Slots are the names of Need+Extra slots.
	Slots []string
	// Merge reports that the debts and Carry count in any case: others did not know of them.
	Merge bool

	// Used is the answer: what was spent of the quota, or the slots in use, before this.
	Used int64
	// At is when it was answered, by the remote clock, in microseconds.
	At int64
	// Granted is how much was taken: Need and a part of Extra, or nothing.
	Granted int64
}

// RateAsk is what is asked of one rate.
type RateAsk struct {
	scale *scale
	// Need and Extra are tokens.
	Need, Extra int64
	// Hold is for how long, in units, extra tokens may be held before they are used: the bucket is
	// taken to be at least that much in debt, so that whenever they are used the limit holds.
	Hold int64
	// Hint is the debt where the count is not known.
	Hint int64
	// Return is how many tokens come back that were held and not used, From when they were taken, as At
	// said. They count only if the bucket has not been full since: it would have gained them without.
	Return, From int64

	// Debt before, and Granted, are the answer.
	Debt    int64
	Granted int64
}

// Scale returns how the rate is counted: what one token costs, what a bucket holds, how many units a
// microsecond pays off, and a text that identifies this way of counting.
func (r *RateAsk) Scale() (each, depth, perMicro int64, sign string) {
	return r.scale.each, r.scale.depth, r.scale.perMicro, r.scale.sign
}
