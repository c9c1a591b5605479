package audit

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"
)

// checkpointForm is the first part of the text that a checkpoint's signature covers. It names the
// version of the form.
const checkpointForm = "keygate audit head 1"

// Signer provides the keys that sign checkpoints. Safe for concurrent use.
type Signer interface {
	// CheckpointKey returns the key for the store of that name.
	CheckpointKey(store string) (ed25519.PrivateKey, error)
}

// Checkpoint is the position of the audit chain at a time. There is one chain for all keyspaces.
//
// A chain that was cut short, or rewritten from some event on with new hashes, still verifies:
// nothing in the store shows the change. A checkpoint shows it, if it is kept where a person who
// can change the store can't change it: in a log that is shipped, at the receiver of a webhook, in
// a file. So a checkpoint is published in every hour in which the chain grew, and returned on
// request.
//
// If the configuration has a secret, a checkpoint is signed with an Ed25519 key (RFC 8032) that is
// derived from the secret and the store's name. The key is not stored. So neither access to the
// store nor old checkpoints are enough to forge one. The signature is over these fields in this
// order, each as its length in eight bytes (big-endian) and its bytes: "keygate audit head 1",
// Store, Keyspace ("" for null), Seq and Events in decimal, Hash in hexadecimal, At in RFC 3339
// UTC with exactly six decimals.
type Checkpoint struct {
	// Store is the name of the store, chosen at random when the store was made.
	Store string `json:"store"`
	// Keyspace is the keyspace whose events Events counts; null for all.
	Keyspace *string `json:"keyspace"`
	// Seq and Hash are the number and the hash of the chain's newest event; 0 and "" where there
	// is none.
	Seq    int64  `json:"seq"`
	Events int64  `json:"events"`
	Hash   string `json:"hash"`
	// At is when the checkpoint was made.
	At time.Time `json:"at"`
	// KeyID is the beginning of the SHA-256 of the public key, in hexadecimal. KeyID, PublicKey and Signature are null where
	// the configuration has no secret to sign with.
	KeyID     *string `json:"key_id"`
	PublicKey []byte  `json:"public_key"`
	Signature []byte  `json:"signature"`
}

// NewCheckpoint returns an unsigned checkpoint of the chain as the transaction sees it. It counts
// the events of a keyspace or, with "", of all.
func NewCheckpoint(tx Tx, store, keyspace string, at time.Time) (Checkpoint, error) {
	c := Checkpoint{Store: store, Keyspace: orNull(keyspace), At: at}
	// LockNewestAudit would return the newest event too, but block transactions that append one.
	newest, err := tx.Audit(Query{Limit: 1})
	if err != nil || len(newest) == 0 {
		return c, err
	}
	c.Seq, c.Hash = newest[0].Seq, hex.EncodeToString(newest[0].Hash)
	c.Events, err = tx.CountAudit(keyspace, c.Seq)
	return c, err
}

// signedText returns the text that a checkpoint's signature covers.
func (c *Checkpoint) signedText() []byte {
	var b bytes.Buffer
	writePart(&b, checkpointForm)
	writePart(&b, c.Store)
	writePart(&b, orEmpty(c.Keyspace))
	writePart(&b, strconv.FormatInt(c.Seq, 10))
	writePart(&b, strconv.FormatInt(c.Events, 10))
	writePart(&b, c.Hash)
	writePart(&b, c.At.UTC().Format(microTime))
	return b.Bytes()
}

func orEmpty(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// KeyID returns the name of a public key: the beginning of its SHA-256 in hexadecimal.
func KeyID(public ed25519.PublicKey) string {
	sum := sha256.Sum256(public)
	return hex.EncodeToString(sum[:16])
}

// Sign signs c; with a nil key it does nothing.
func (c *Checkpoint) Sign(key ed25519.PrivateKey) {
	if key == nil {
		return
	}
	public := key.Public().(ed25519.PublicKey)
	id := KeyID(public)
	c.KeyID, c.PublicKey, c.Signature = &id, public, ed25519.Sign(key, c.signedText())
}

// IsOf reports whether c and published are the same position of the chain.
func (c *Checkpoint) IsOf(published PublishedCheckpoint) bool {
	return c.Hash == hex.EncodeToString(published.Hash) && c.Seq == published.Seq
}

// Published returns the position of c as published at a time.
func (c *Checkpoint) Published(at time.Time) (PublishedCheckpoint, error) {
	hash, err := hex.DecodeString(c.Hash)
	return PublishedCheckpoint{Seq: c.Seq, At: at, Hash: hash}, err
}

// Lost describes why the event of a published checkpoint is not in the chain any more. It returns
// "" where the event is there.
func Lost(tx Tx, p PublishedCheckpoint) (string, error) {
	if p.Seq == 0 {
		return "", nil
	}
	rows, err := tx.Audit(Query{After: p.Seq - 1, Ascending: true, Limit: 1})
	switch {
	case err != nil:
		return "", err
	case len(rows) == 0 || rows[0].Seq != p.Seq:
		return fmt.Sprintf("event %d, the newest of the checkpoint of %s, is gone", p.Seq, p.At.Format(time.RFC3339)), nil
	case !bytes.Equal(rows[0].Hash, p.Hash):
		return fmt.Sprintf("event %d, the newest of the checkpoint of %s, was replaced by another", p.Seq, p.At.Format(time.RFC3339)), nil
	}
	return "", nil
}
