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

// checkpointForm begins the text that a checkpoint's signature is made over.
const checkpointForm = "keygate audit head 1"

// Signer has the keys that checkpoints are signed with. Safe for concurrent use.
type Signer interface {
	// CheckpointKey returns the key for the store of that name.
	CheckpointKey(store string) (ed25519.PrivateKey, error)
}

// Checkpoint is the position of the audit chain at a time. There is one chain for all keyspaces.
//
// A chain that was cut short, or rewritten from some event on with new hashes, verifies: nothing in the store shows it. A
// checkpoint that is kept elsewhere shows it, where nobody who can write to the store can write: in a log that is shipped,
// at the receiver of a webhook, in a file. So a checkpoint is published in every hour in which the chain grew, and made
// whenever someone asks for one.
//
// A checkpoint is signed where the configuration has a secret, with an Ed25519 key (RFC 8032) derived from that secret and
// from the store's name. So neither somebody who has only the store can forge one, nor somebody who keeps checkpoints, and no
// signing key is stored. The signature is over these fields in this order, each as its length in eight bytes (big-endian)
// and its bytes: "keygate audit head 1", Store, Keyspace ("" for null), Seq and Events in decimal, Hash in hexadecimal, At in
// RFC 3339 UTC with exactly six decimals.
type Checkpoint struct {
	// Store is the name of the store, chosen at random when the store was made.
	Store string `json:"store"`
	// Keyspace is the keyspace whose events Events counts; null: all.
	Keyspace *string `json:"keyspace"`
	// Seq and Hash are of the chain's newest event; 0 and "" where there is none.
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

// NewCheckpoint returns the position of the chain as the transaction sees it, not signed, for a keyspace or, with "", all.
func NewCheckpoint(tx Tx, store, keyspace string, at time.Time) (Checkpoint, error) {
	h := Checkpoint{Store: store, Keyspace: orNull(keyspace), At: at}
	// LockNewestAudit would block transactions that append an event.
	newest, err := tx.Audit(Query{Limit: 1})
	if err != nil || len(newest) == 0 {
		return h, err
	}
	h.Seq, h.Hash = newest[0].Seq, hex.EncodeToString(newest[0].Hash)
	h.Events, err = tx.CountAudit(keyspace, h.Seq)
	return h, err
}

// signedText returns the text that a checkpoint's signature is made over.
func (h *Checkpoint) signedText() []byte {
	var b bytes.Buffer
	writePart(&b, checkpointForm)
	writePart(&b, h.Store)
	writePart(&b, orEmpty(h.Keyspace))
	writePart(&b, strconv.FormatInt(h.Seq, 10))
	writePart(&b, strconv.FormatInt(h.Events, 10))
	writePart(&b, h.Hash)
	writePart(&b, h.At.UTC().Format(microTime))
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

// Sign signs h; with a nil key it does nothing.
func (h *Checkpoint) Sign(key ed25519.PrivateKey) {
	if key == nil {
		return
	}
	public := key.Public().(ed25519.PublicKey)
	id := KeyID(public)
	h.KeyID, h.PublicKey, h.Signature = &id, public, ed25519.Sign(key, h.signedText())
}

// IsOf reports whether h is the position that was published.
func (h *Checkpoint) IsOf(published PublishedCheckpoint) bool {
	return h.Hash == hex.EncodeToString(published.Hash) && h.Seq == published.Seq
}

// Published returns h as published at a time.
func (h *Checkpoint) Published(at time.Time) (PublishedCheckpoint, error) {
	hash, err := hex.DecodeString(h.Hash)
	return PublishedCheckpoint{Seq: h.Seq, At: at, Hash: hash}, err
}

// Lost describes why a published checkpoint is not in the chain any more; "" where it is.
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
