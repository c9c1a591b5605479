package idempotency

import "time"

// Record is a request that is to be carried out once, as stored.
type Record struct {
	// ID is a digest of whose request it is and of the key they gave it.
	ID []byte
	// Request is a digest of the request itself.
	Request []byte
	// Claim names who carries it out, since ClaimedAt.
	Claim     string
	ClaimedAt time.Time
	ExpiresAt time.Time
	// Effect is what was committed for it; its Action is "" before.
	Effect Effect
	// Status, ETag and Body are the answer; Status is 0 before there is one.
	Status int
	ETag   string
	Body   string
}

// Effect is what a request led to, as its last audit event tells.
type Effect struct {
	Action, Target string
	// Balance is a tenant's after its credits were moved; nil for other actions.
	Balance *int64
}

// Tx reads and writes the records, in a transaction of the store.
type Tx interface {
	// InsertIdempotency reports whether there was no row of that ID yet. Where there was one, nothing is written.
	InsertIdempotency(*Record) (bool, error)
	// LockIdempotency returns a row, and until the transaction ends no other reads it through LockIdempotency.
	LockIdempotency(id []byte) (*Record, error)
	UpdateIdempotency(*Record) error
	DeleteIdempotency(id []byte) error
	// PruneIdempotency deletes the rows that have expired at now.
	PruneIdempotency(now time.Time) error
}
