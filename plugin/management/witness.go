package management

import (
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"time"
)

// MaxHeads bounds how many heads a chain is checked against at once.
const MaxHeads = 1000

// witness compares heads that were kept elsewhere with the chain, as its rows pass.
type witness struct {
	// heads by the seq of their event, those not yet met.
	heads map[int64][]*Head
	// events counts those that passed, by keyspace; "" counts all.
	events map[string]int64
	last   int64
}

func newWitness(heads []Head) *witness {
	w := &witness{heads: map[int64][]*Head{}, events: map[string]int64{}}
	for i := range heads {
		h := &heads[i]
		w.heads[h.Seq] = append(w.heads[h.Seq], h)
	}
	return w
}

// pass compares a row with the heads that are of it.
func (w *witness) pass(r *ChainReport, row *AuditRow) {
	w.events[""]++
	w.events[row.Keyspace]++
	w.last = row.Seq
	for _, h := range w.heads[row.Seq] {
		if h.Hash != hex.EncodeToString(row.Hash) {
			r.problem("%s is not in the chain, whose event %d has another hash: it, or what was before it, was rewritten", h.called(), row.Seq)
		} else if n := w.events[orEmpty(h.Keyspace)]; h.Events != n {
			r.problem("%s counts %d events up to there, and the chain has %d", h.called(), h.Events, n)
		}
	}
	delete(w.heads, row.Seq)
}

// end notes the heads whose event was not in the chain.
func (w *witness) end(r *ChainReport) {
	for _, seq := range slices.Sorted(maps.Keys(w.heads)) {
		for _, h := range w.heads[seq] {
			switch {
			case seq == 0 && h.Hash == "" && h.Events == 0:
				// Of a chain that had not begun; every chain goes on from there.
			case seq > w.last:
				r.problem("%s is not in the chain, which ends with event %d: what came after that was cut off, or the store is an older copy", h.called(), w.last)
			default:
				r.problem("%s is not in the chain: event %d is gone", h.called(), seq)
			}
		}
	}
}

// called is how a report names a head.
func (h *Head) called() string {
	return fmt.Sprintf("the head of %s (event %d)", h.At.UTC().Format(time.RFC3339), h.Seq)
}

// checkSignature says whether the head has a signature by one of the keys, and what is wrong with it otherwise.
// Without keys an unsigned head is as good as any.
func (h *Head) checkSignature(trusted []ed25519.PublicKey) (signed bool, wrong string) {
	if len(h.Signature) == 0 {
		if len(trusted) == 0 {
			return false, ""
		}
		return false, "has no signature, though heads are signed here: it is from before there was a secret, or somebody took the signature off"
	}
	for _, key := range trusted {
		if ed25519.Verify(key, h.signed(), h.Signature) {
			return true, ""
		}
	}
	id := "none"
	if len(h.PublicKey) == ed25519.PublicKeySize {
		id = HeadKeyID(h.PublicKey)
	}
	switch {
	case len(trusted) == 0:
		return false, "is signed, with the key " + id + ", and there is no key here to check that with: configure the secret, or state the public key that you noted"
	case !knows(trusted, id):
		return false, "is signed with the key " + id + ", which is not this gateway's: the secret was another then, or it was made up. If you noted that public key, state it"
	}
	return false, "was changed, or its signature was: they don't belong together"
}

func knows(trusted []ed25519.PublicKey, id string) bool {
	return slices.ContainsFunc(trusted, func(key ed25519.PublicKey) bool { return HeadKeyID(key) == id })
}
