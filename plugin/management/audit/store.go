// Package audit implements the audit chain: its rows and their hashes, signed checkpoints of the chain, and the
// verification of both.
//
// A row is one event. Rows form a chain over all keyspaces:
//
//	Hash = SHA-256(Prev ‖ form), Prev = the Hash of the row with the next lower seq, none for the first
//
// form is these fields in this order, each as its length in eight bytes (big-endian) and its bytes: "keygate audit 1",
// Seq in decimal, ID, Keyspace, At in RFC 3339 UTC with exactly six decimals, Action, Target, Tenant, KeyID, Via, Before,
// After, PersonalHash. Before and After are the very bytes that are stored.
//
// Personal data is not in the chain: actor, address, and the free text of a record (names, descriptions, metadata) are in
// Personal, of which the chain holds only PersonalHash = SHA-256(Salt ‖ Personal). Erasing a person empties Personal and
// Salt. The chain still verifies, and without the salt the data can't be guessed from the hash.
package audit

import (
	"encoding/json"
	"time"
)

// Row is one event as stored.
type Row struct {
	Seq      int64
	ID       string
	Keyspace string
	At       time.Time
	Action   string // Action is the name of the event, such as "key.created".
	Target   string // Target is a key's id, a tenant's slug, or another id.
	Tenant   string // Tenant is the slug of the tenant that the event belongs to; "" for none.
	KeyID    string // KeyID is the id of the key that the event belongs to; "" for none.
	Via      string // Via is "api", "admin", "cli", "console" or "system".
	Before   json.RawMessage
	After    json.RawMessage
	// Personal is a JSON object with actor, ip, token, before and after; empty once the person is erased.
	Personal     json.RawMessage
	Salt         []byte
	PersonalHash []byte
	Prev         []byte
	Hash         []byte
}

// Query selects events, newest first.
type Query struct {
	Keyspace  string // Keyspace selects the events of one keyspace; "" selects the events of all.
	Key       string
	Tenant    string
	Before    int64 // Before is the seq of the last row of the page before; 0 for the first page.
	After     int64 // After is used with Ascending: it selects the rows whose seq is larger than After, oldest first.
	Ascending bool
	Limit     int
}

// PublishedCheckpoint is the position that was published last; zero before the first.
type PublishedCheckpoint struct {
	Seq  int64
	At   time.Time
	Hash []byte
}

// Tx reads and writes the audit chain, in a transaction of the store.
type Tx interface {
	// LockNewestAudit returns the newest event's seq and hash; 0 and nil when there is none.
	// Until the transaction ends, no other transaction returns from LockNewestAudit.
	LockNewestAudit() (seq int64, hash []byte, err error)
	InsertAudit(*Row) error
	Audit(q Query) ([]Row, error)
	// CountAudit counts the events of a keyspace up to and including seq. For the keyspace "", it counts the events of all
	// keyspaces.
	CountAudit(keyspace string, seq int64) (int64, error)
	PublishedCheckpoint() (PublishedCheckpoint, error)
	// LockPublishedCheckpoint returns the position that was published last, and locks it: until the transaction ends, no other
	// transaction returns from LockPublishedCheckpoint.
	LockPublishedCheckpoint() (PublishedCheckpoint, error)
	SetPublishedCheckpoint(PublishedCheckpoint) error
}
