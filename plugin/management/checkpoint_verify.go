package management

import (
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"time"
)

// MaxCheckpoints bounds how many heads a chain is checked against at once.
const MaxCheckpoints = 1000

// checkpointVerifier compares heads that were kept elsewhere with the chain, as its rows pass.
type checkpointVerifier struct {
	// pending by the seq of their event, those not yet met.
	pending map[int64][]*Checkpoint
	// events counts those that passed, by keyspace; "" counts all.
	events map[string]int64
	last   int64
}

func newCheckpointVerifier(heads []Checkpoint) *checkpointVerifier {
	w := &checkpointVerifier{pending: map[int64][]*Checkpoint{}, events: map[string]int64{}}
	for i := range heads {
		h := &heads[i]
		w.pending[h.Seq] = append(w.pending[h.Seq], h)
	}
	return w
}

// check compares a row with the heads that are of it.
func (w *checkpointVerifier) check(r *ChainReport, row *AuditRow) {
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

// finish notes the heads whose event was not in the chain.
func (w *checkpointVerifier) finish(r *ChainReport) {
	for _, seq := range slices.Sorted(maps.Keys(w.pending)) {
		for _, h := range w.pending[seq] {
			switch {
			case seq == 0 && h.Hash == "" && h.Events == 0:
				// Of a chain that had not begun; every chain goes on from there.
			case seq > w.last:
				r.addProblem("%s is not in the chain, which ends with event %d: what came after that was cut off, or the store is an older copy", h.label(), w.last)
			default:
				r.addProblem("%s is not in the chain: event %d is gone", h.label(), seq)
			}
		}
	}
}

// label is how a report names a head.
func (h *Checkpoint) label() string {
	return fmt.Sprintf("the head of %s (event %d)", h.At.UTC().Format(time.RFC3339), h.Seq)
}

// verifySignature says whether the head has a signature by one of the keys, and what is wrong with it otherwise.
// Without keys an unsigned head is as good as any.
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
		id = CheckpointKeyID(h.PublicKey)
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
	return slices.ContainsFunc(trusted, func(key ed25519.PublicKey) bool { return CheckpointKeyID(key) == id })
}
