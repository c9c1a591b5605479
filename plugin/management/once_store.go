package management

import "time"

// OnceRow is a request that is to be carried out once, as stored.
type OnceRow struct {
	// ID is a digest of whose request it is and of the key they gave it.
	ID []byte
	// Request is a digest of the request itself.
	Request []byte
	// Claim names who carries it out, since ClaimedAt.
	Claim     string
	ClaimedAt time.Time
	ExpiresAt time.Time
	// Done is what was committed for it; its Action is "" before.
	Done Done
	// Status, ETag and Body are the answer; Status is 0 before there is one.
	Status int
	ETag   string
	Body   string
}

// Done is what a request led to, as its last audit event tells.
type Done struct {
	Action, Target string
	// Balance is a tenant's after its credits were moved; nil for other actions.
	Balance *int64
}

// OnceTx is the part of Tx that is about requests to be carried out once.
type OnceTx interface {
	// InsertOnce says whether there was no row of that ID yet; else nothing is written.
	InsertOnce(*OnceRow) (bool, error)
	// LockOnce returns a row, and until the transaction ends no other reads it through LockOnce.
	LockOnce(id []byte) (*OnceRow, error)
	UpdateOnce(*OnceRow) error
	DeleteOnce(id []byte) error
	// PruneOnce deletes the rows that have expired at now.
	PruneOnce(now time.Time) error
}
