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
	w := &checkpointVerifier{pending: map[int64][]*Checkpoint{}, events: map[string]int64{}}
	for i := range list {
		h := &list[i]
		w.pending[h.Seq] = append(w.pending[h.Seq], h)
	}
	return w
}

// check compares a row with the checkpoints at its seq.
func (w *checkpointVerifier) check(r *Report, row *Row) {
	w.events[""]++
	w.events[row.Keyspace]++
	w.last = row.Seq
	for _, h := range w.pending[row.Seq] {
		if h.Hash != hex.EncodeToString(row.Hash) {
			r.addProblem("%s is not in the chain, whose event %d has another hash: it, or what was before it, was rewritten", h.label(), row.Seq)
		} else if n := w.events[orEmpty(h.Keyspace)]; h.Events != n {
			r.addProblem("%s counts %d events up to there, and the chain has %d", h.label(), h.Events, n)
		}
	}
	delete(w.pending, row.Seq)
}

// finish reports the checkpoints whose event was not in the chain.
func (w *checkpointVerifier) finish(r *Report) {
	for _, seq := range slices.Sorted(maps.Keys(w.pending)) {
		for _, h := range w.pending[seq] {
			switch {
			case seq == 0 && h.Hash == "" && h.Events == 0:
				// A checkpoint of an empty chain is part of every chain.
			case seq > w.last:
				r.addProblem("%s is not in the chain, which ends with event %d: what came after that was cut off, or the store is an older copy", h.label(), w.last)
			default:
				r.addProblem("%s is not in the chain: event %d is gone", h.label(), seq)
			}
		}
	}
}

// label returns how a report names a checkpoint.
func (h *Checkpoint) label() string {
	return fmt.Sprintf("the head of %s (event %d)", h.At.UTC().Format(time.RFC3339), h.Seq)
}

// verifySignature reports whether one of the trusted keys made the signature, and describes what is wrong otherwise; ""
// for nothing. Where no key is trusted, a checkpoint without a signature is accepted.
func (h *Checkpoint) verifySignature(trusted []ed25519.PublicKey) (signed bool, wrong string) {
	if len(h.Signature) == 0 {
		if len(trusted) == 0 {
			return false, ""
		}
		return false, "has no signature, though heads are signed here: it is from before there was a secret, or somebody took the signature off"
	}
	for _, key := range trusted {
		if ed25519.Verify(key, h.signedText(), h.Signature) {
			return true, ""
		}
	}
	id := "none"
	if len(h.PublicKey) == ed25519.PublicKeySize {
		id = KeyID(h.PublicKey)
	}
	switch {
	case len(trusted) == 0:
		return false, "is signed, with the key " + id + ", and there is no key here to check that with: configure the secret, or state the public key that you noted"
	case !trusts(trusted, id):
		return false, "is signed with the key " + id + ", which is not this gateway's: the secret was another then, or it was made up. If you noted that public key, state it"
	}
	return false, "was changed, or its signature was: they don't belong together"
}

func trusts(trusted []ed25519.PublicKey, id string) bool {
	return slices.ContainsFunc(trusted, func(key ed25519.PublicKey) bool { return KeyID(key) == id })
}
