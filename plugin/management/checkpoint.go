package management

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// A chain that was cut short, or rewritten from some event on with all hashes made anew, verifies: nothing in
// the store can tell. It is noticed against a head that is kept elsewhere, where who can write to the
// store can't: in a log that is shipped, with the receiver of a webhook, in a file. So heads are given
// out every hour in which the chain moved, and whenever one is asked for.
//
// A head is signed where there is a secret, with an Ed25519 key (RFC 8032) derived from that and from the
// store's name. So it can't be made up by whoever has the store alone, nor whoever keeps the heads; and no
// signing key is stored. What is signed is these fields in this order, each as its length in eight bytes
// (big-endian) and its bytes: "keygate audit head 1", Store, Keyspace ("" for null), Seq and Events in
// decimal, Hash in hexadecimal, At in RFC 3339 UTC with exactly six decimals.
const checkpointForm = "keygate audit head 1"

// CheckpointSigner has the keys that heads of audit chains are signed with. Safe for concurrent use.
type CheckpointSigner interface {
	// CheckpointKey returns the key of the store of that name.
	CheckpointKey(store string) (ed25519.PrivateKey, error)
}

// Checkpoint is how far the audit chain had come at a time. The chain is one over all keyspaces.
type Checkpoint struct {
	// Store is the name of the store, chosen at random when that was made.
	Store string `json:"store"`
	// Keyspace is whose events Events counts; null: all.
	Keyspace *string `json:"keyspace"`
	// Seq and Hash are of the chain's newest event; 0 and "" where there is none.
	Seq    int64  `json:"seq"`
	Events int64  `json:"events"`
	Hash   string `json:"hash"`
	// At is when the head was made.
	At time.Time `json:"at"`
	// KeyID is the beginning of the SHA-256 of the public key, in hexadecimal. It, the public key and the
	// signature are null where the configuration has no secret to sign with.
	KeyID     *string `json:"key_id"`
	PublicKey []byte  `json:"public_key"`
	Signature []byte  `json:"signature"`
}

// signedText returns what a head's signature is over.
func (h *Checkpoint) signedText() []byte {
	var b bytes.Buffer
	writePart(&b, checkpointForm)
	writePart(&b, h.Store)
	writePart(&b, orEmpty(h.Keyspace))
	writePart(&b, itoa(h.Seq))
	writePart(&b, itoa(h.Events))
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

// CheckpointKeyID names a public key.
func CheckpointKeyID(public ed25519.PublicKey) string {
	sum := sha256.Sum256(public)
	return hex.EncodeToString(sum[:16])
}

// checkpointKey returns the key that this node signs heads of the store with; nil for none.
func (m *Manager) checkpointKey(store string) (ed25519.PrivateKey, error) {
	if m.signer == nil {
		return nil, nil
	}
	s := m.signer()
	if s == nil {
		return nil, nil
	}
	return s.CheckpointKey(store)
}

// sign signs h, where there is a key.
func (h *Checkpoint) sign(key ed25519.PrivateKey) {
	if key == nil {
		return
	}
	public := key.Public().(ed25519.PublicKey)
	id := CheckpointKeyID(public)
	h.KeyID, h.PublicKey, h.Signature = &id, public, ed25519.Sign(key, h.signedText())
}

// makeCheckpoint returns the head of the chain as the transaction sees it, signed, for a keyspace or, with "", all.
func (m *Manager) makeCheckpoint(tx Tx, keyspace string) (Checkpoint, error) {
	h := Checkpoint{Keyspace: optional(keyspace), At: m.clock()}
	var err error
	if h.Store, _, err = tx.Identity(); err != nil {
		return h, err
	}
	// AuditHead would hold up whoever appends an event.
	newest, err := tx.Audit(AuditQuery{Limit: 1})
	if err != nil {
		return h, err
	}
	if len(newest) > 0 {
		h.Seq, h.Hash = newest[0].Seq, hex.EncodeToString(newest[0].Hash)
		if h.Events, err = tx.CountAudit(keyspace, h.Seq); err != nil {
			return h, err
		}
	}
	key, err := m.checkpointKey(h.Store)
	if err != nil {
		return h, err
	}
	h.sign(key)
	return h, nil
}

// LockNewestAudit returns the head of the audit chain. An empty keyspace counts the events of all. 403 for whoever
// sees one tenant only, who could count the others' events by it.
func (m *Manager) Checkpoint(ctx context.Context, a Actor, keyspace string) (h Checkpoint, err error) {
	if err := a.RequireOperator("see the head of the audit chain, which is one over all tenants"); err != nil {
		return h, err
	}
	err = m.store.View(ctx, func(tx Tx) error {
		h, err = m.makeCheckpoint(tx, keyspace)
		return err
	})
	return h, err
}

// EventAuditCheckpoint is the type of the event that gives a head out. It is no tenant's.
const EventAuditCheckpoint = "audit.head"

// PublishCheckpoint gives the head of the audit chain out, where that has moved since it was given out
// last and that is at least every ago: in the log, and as an event of each keyspace that is configured. Of
// nodes that share a store one does. It also looks whether the head of the last time is still in the
// chain, and logs an error where it is not.
func (m *Manager) PublishCheckpoint(ctx context.Context, every time.Duration) error {
	v := m.view()
	if v == nil {
		return nil
	}
	now := m.clock()
	var given PublishedCheckpoint
	var heads []Checkpoint // of the store, then of its keyspaces in the order of names
	var lost string
	err := m.store.View(ctx, func(tx Tx) (err error) {
		heads, lost = nil, ""
		if given, err = tx.PublishedCheckpoint(); err != nil || now.Sub(given.At).Abs() < every {
			return err
		}
		if lost, err = lostCheckpoint(tx, given); err != nil {
			return err
		}
		for _, name := range append([]string{""}, slices.Sorted(maps.Keys(v.Keyspaces))...) {
			h, err := m.makeCheckpoint(tx, name)
			if err != nil {
				return err
			}
			if h.Hash == hex.EncodeToString(given.Hash) && h.Seq == given.Seq {
				return nil
			}
			heads = append(heads, h)
		}
		return nil
	})
	if err != nil || len(heads) == 0 {
		return err
	}
	var told publications
	errTaken := errors.New("another node gave it out")
	err = m.store.Update(ctx, func(tx Tx) error {
		told = publications{}
		latest, err := tx.LockPublishedCheckpoint()
		if err != nil {
			return err
		}
		if latest.Seq != given.Seq || !latest.At.Equal(given.At) {
			return errTaken
		}
		hash, err := hex.DecodeString(heads[0].Hash)
		if err != nil {
			return err
		}
		for _, h := range heads[1:] {
			c := &call{Tx: tx, m: m, ks: v.Keyspaces[*h.Keyspace], view: v, now: now, actor: system}
			if err := c.publishCheckpoint(h); err != nil {
				return err
			}
			told.events = append(told.events, c.publications.events...)
			told.deliveries = told.deliveries || c.publications.deliveries
		}
		return tx.SetPublishedCheckpoint(PublishedCheckpoint{Seq: heads[0].Seq, At: now, Hash: hash})
	})
	if errors.Is(err, errTaken) {
		return nil
	}
	if err != nil {
		return err
	}
	if lost != "" {
		m.log.ErrorContext(ctx, "the audit chain was altered, or the store was replaced by an older copy: verify it against heads that were kept elsewhere", "problem", lost)
	}
	m.log.InfoContext(ctx, "audit head", "head", heads[0])
	m.notify(told)
	return nil
}

// publishCheckpoint publishes a head to those who hear what is no tenant's.
func (c *call) publishCheckpoint(h Checkpoint) error {
	a, err := c.recipients("", EventAuditCheckpoint)
	if err != nil || a.empty() {
		return err
	}
	data, err := json.Marshal(h)
	if err != nil {
		return err
	}
	return c.publish(a, Event{ID: c.m.ids.next(eventIDPrefix, c.now), Keyspace: c.ks.Name, Type: EventAuditCheckpoint, At: h.At, Data: data})
}

// lostCheckpoint says that the chain has not the event that was its head; "" where it has.
func lostCheckpoint(tx Tx, given PublishedCheckpoint) (string, error) {
	if given.Seq == 0 {
		return "", nil
	}
	rows, err := tx.Audit(AuditQuery{After: given.Seq - 1, Ascending: true, Limit: 1})
	switch {
	case err != nil:
		return "", err
	case len(rows) == 0 || rows[0].Seq != given.Seq:
		return fmt.Sprintf("event %d, which was the head at %s, is gone", given.Seq, given.At.Format(time.RFC3339)), nil
	case !bytes.Equal(rows[0].Hash, given.Hash):
		return fmt.Sprintf("event %d, which was the head at %s, is not the one that it was", given.Seq, given.At.Format(time.RFC3339)), nil
	}
	return "", nil
}
