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
const headForm = "keygate audit head 1"

// HeadSigner has the keys that heads of audit chains are signed with. Safe for concurrent use.
type HeadSigner interface {
	// HeadKey returns the key of the store of that name.
	HeadKey(store string) (ed25519.PrivateKey, error)
}

// Head is how far the audit chain had come at a time. The chain is one over all keyspaces.
type Head struct {
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

// signed returns what a head's signature is over.
func (h *Head) signed() []byte {
	var b bytes.Buffer
	part(&b, headForm)
	part(&b, h.Store)
	part(&b, orEmpty(h.Keyspace))
	part(&b, itoa(h.Seq))
	part(&b, itoa(h.Events))
	part(&b, h.Hash)
	part(&b, h.At.UTC().Format(microTime))
	return b.Bytes()
}

func orEmpty(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// HeadKeyID names a public key.
func HeadKeyID(public ed25519.PublicKey) string {
	sum := sha256.Sum256(public)
	return hex.EncodeToString(sum[:16])
}

// headKey returns the key that this node signs heads of the store with; nil for none.
func (m *Manager) headKey(store string) (ed25519.PrivateKey, error) {
	if m.signer == nil {
		return nil, nil
	}
	s := m.signer()
	if s == nil {
		return nil, nil
	}
	return s.HeadKey(store)
}

// sign signs h, where there is a key.
func (h *Head) sign(key ed25519.PrivateKey) {
	if key == nil {
		return
	}
	public := key.Public().(ed25519.PublicKey)
	id := HeadKeyID(public)
	h.KeyID, h.PublicKey, h.Signature = &id, public, ed25519.Sign(key, h.signed())
}

// makeHead returns the head of the chain as the transaction sees it, signed, for a keyspace or, with "", all.
func (m *Manager) makeHead(tx Tx, keyspace string) (Head, error) {
	h := Head{Keyspace: optional(keyspace), At: m.clock()}
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
	key, err := m.headKey(h.Store)
	if err != nil {
		return h, err
	}
	h.sign(key)
	return h, nil
}

// AuditHead returns the head of the audit chain. An empty keyspace counts the events of all. 403 for whoever
// sees one tenant only, who could count the others' events by it.
func (m *Manager) AuditHead(ctx context.Context, a Actor, keyspace string) (h Head, err error) {
	if err := a.Operator("see the head of the audit chain, which is one over all tenants"); err != nil {
		return h, err
	}
	err = m.store.View(ctx, func(tx Tx) error {
		h, err = m.makeHead(tx, keyspace)
		return err
	})
	return h, err
}

// EventAuditHead is the type of the event that gives a head out. It is no tenant's.
const EventAuditHead = "audit.head"

// AnnounceHead gives the head of the audit chain out, where that has moved since it was given out
// last and that is at least every ago: in the log, and as an event of each keyspace that is configured. Of
// nodes that share a store one does. It also looks whether the head of the last time is still in the
// chain, and logs an error where it is not.
func (m *Manager) AnnounceHead(ctx context.Context, every time.Duration) error {
	v := m.view()
	if v == nil {
		return nil
	}
	now := m.clock()
	var given GivenHead
	var heads []Head // of the store, then of its keyspaces in the order of names
	var lost string
	err := m.store.View(ctx, func(tx Tx) (err error) {
		heads, lost = nil, ""
		if given, err = tx.GivenHead(); err != nil || now.Sub(given.At).Abs() < every {
			return err
		}
		if lost, err = lostHead(tx, given); err != nil {
			return err
		}
		for _, name := range append([]string{""}, slices.Sorted(maps.Keys(v.Keyspaces))...) {
			h, err := m.makeHead(tx, name)
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
	var told published
	errTaken := errors.New("another node gave it out")
	err = m.store.Update(ctx, func(tx Tx) error {
		told = published{}
		latest, err := tx.LockGivenHead()
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
			if err := c.publishHead(h); err != nil {
				return err
			}
			told.heard = append(told.heard, c.published.heard...)
			told.queued = told.queued || c.published.queued
		}
		return tx.SetGivenHead(GivenHead{Seq: heads[0].Seq, At: now, Hash: hash})
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
	m.tell(told)
	return nil
}

// publishHead publishes a head to those who hear what is no tenant's.
func (c *call) publishHead(h Head) error {
	a, err := c.audience("", EventAuditHead)
	if err != nil || a.empty() {
		return err
	}
	data, err := json.Marshal(h)
	if err != nil {
		return err
	}
	return c.publish(a, Event{ID: c.m.ids.next(eventIDPrefix, c.now), Keyspace: c.ks.Name, Type: EventAuditHead, At: h.At, Data: data})
}

// lostHead says that the chain has not the event that was its head; "" where it has.
func lostHead(tx Tx, given GivenHead) (string, error) {
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
