package audit

import (
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"time"
)

// MaxCheckpoints bounds how many checkpoints a chain is compared with in one call.
const MaxCheckpoints = 1000

// checkpointVerifier compares checkpoints that were kept elsewhere with the rows of the chain, in order.
type checkpointVerifier struct {
	// pending are the checkpoints whose row has not been read yet, by seq.
	pending map[int64][]*Checkpoint
	// events counts the rows read so far, by keyspace; "" counts all.
	events map[string]int64
	last   int64
}

func newCheckpointVerifier(list []Checkpoint) *checkpointVerifier {
	v := &checkpointVerifier{pending: map[int64][]*Checkpoint{}, events: map[string]int64{}}
	for i := range list {
		c := &list[i]
		v.pending[c.Seq] = append(v.pending[c.Seq], c)
	}
	return v
}

// check compares a row with the checkpoints at its seq.
func (v *checkpointVerifier) check(r *Report, row *Row) {
	v.events[""]++
	v.events[row.Keyspace]++
	v.last = row.Seq
	for _, c := range v.pending[row.Seq] {
		if c.Hash != hex.EncodeToString(row.Hash) {
			r.addProblem("%s is not in the chain, whose event %d has another hash: this event or an earlier one was rewritten", c.label(), row.Seq)
		} else if n := v.events[orEmpty(c.Keyspace)]; c.Events != n {
			r.addProblem("%s counts %d events up to its own, but the chain has %d", c.label(), c.Events, n)
		}
	}
	delete(v.pending, row.Seq)
}

// finish reports the checkpoints whose event was not in the chain.
func (v *checkpointVerifier) finish(r *Report) {
	for _, seq := range slices.Sorted(maps.Keys(v.pending)) {
		for _, c := range v.pending[seq] {
			switch {
			case seq == 0 && c.Hash == "" && c.Events == 0:
				// A checkpoint of an empty chain is part of every chain.
			case seq > v.last:
				r.addProblem("%s is not in the chain, which ends with event %d: its end was cut off, or the store is an older copy", c.label(), v.last)
			default:
				r.addProblem("%s is not in the chain: event %d is gone", c.label(), seq)
			}
		}
	}
}

// label returns the name of a checkpoint in reports.
func (c *Checkpoint) label() string {
	return fmt.Sprintf("the checkpoint of %s (event %d)", c.At.UTC().Format(time.RFC3339), c.Seq)
}

// verifySignature reports whether one of the trusted keys made the signature. Otherwise wrong
// describes the problem, "" for none. Where no key is trusted, a checkpoint without a signature is
// accepted.
func (c *Checkpoint) verifySignature(trusted []ed25519.PublicKey) (signed bool, wrong string) {
	if len(c.Signature) == 0 {
		if len(trusted) == 0 {
			return false, ""
		}
		return false, "has no signature, although this gateway signs checkpoints: it was made before there was a secret, or its signature was removed"
	}
	for _, key := range trusted {
		if ed25519.Verify(key, c.signedText(), c.Signature) {
			return true, ""
		}
	}
	id := "none"
	if len(c.PublicKey) == ed25519.PublicKeySize {
		id = KeyID(c.PublicKey)
	}
	switch {
	case len(trusted) == 0:
		return false, "is signed with the key " + id + ", but there is no key here to verify it with: configure the secret, or state the public key that you noted"
	case !trusts(trusted, id):
		return false, "is signed with the key " + id + ", which is not this gateway's: it was made under another secret, or forged. If you noted that public key, state it"
	}
	return false, "was changed, or its signature was: they don't belong together"
}

func trusts(trusted []ed25519.PublicKey, id string) bool {
	return slices.ContainsFunc(trusted, func(key ed25519.PublicKey) bool { return KeyID(key) == id })
}
