package idempotency

import "time"

// Record is the record of a request, as stored.
type Record struct {
	// ID is a digest of the sender and the idempotency key.
	ID []byte
	// Request is a digest of the request.
	Request []byte
	// Claim names the claim that carries out the request since ClaimedAt.
	Claim     string
	ClaimedAt time.Time
	ExpiresAt time.Time
	// Effect is the change that was committed for the request; its Action is "" before that.
	Effect Effect
	// Status, ETag and Body are the response; Status is 0 before there is one.
	Status int
	ETag   string
	Body   string
}

// Effect is the change that a request made, as its last audit event describes it.
type Effect struct {
	Action, Target string
	// Balance is the tenant's balance after a movement of credits; nil for other actions.
	Balance *int64
}

// Tx reads and writes the records, in a transaction of the store.
type Tx interface {
	// InsertIdempotency stores a record and returns true. If there is a record with that ID, it
	// writes nothing and returns false.
	InsertIdempotency(*Record) (bool, error)
	// LockIdempotency returns a record. Until the transaction ends, no other transaction returns
	// from LockIdempotency for that record.
	LockIdempotency(id []byte) (*Record, error)
	UpdateIdempotency(*Record) error
	DeleteIdempotency(id []byte) error
	// PruneIdempotency deletes the records that have expired at now.
	PruneIdempotency(now time.Time) error
}
