package management

import "time"

// PublishedCheckpoint is the head of the audit chain that was given out last; zero where none was.
type PublishedCheckpoint struct {
	Seq  int64
	At   time.Time
	Hash []byte
}

// CheckpointTx is the part of Tx that is about the store as a whole, and the heads of its audit chain.
type CheckpointTx interface {
	// Identity returns what tells the store from others, and 16 bytes under which numbers
	// of sequences are written in cursors. Both were chosen at random when it was made.
	Identity() (id string, cursorKey []byte, err error)
	// CountAudit counts a keyspace's events, or with "" all, up to that seq and with it.
	CountAudit(keyspace string, seq int64) (int64, error)
	PublishedCheckpoint() (PublishedCheckpoint, error)
	// LockPublishedCheckpoint is PublishedCheckpoint, and until the transaction ends no other reads it through LockPublishedCheckpoint.
	LockPublishedCheckpoint() (PublishedCheckpoint, error)
	SetPublishedCheckpoint(PublishedCheckpoint) error
}
