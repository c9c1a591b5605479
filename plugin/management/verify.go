package management

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
)

// ChainReport is what verifying the audit chain found.
type ChainReport struct {
	// Events counts the rows that were read.
	Events int64 `json:"events"`
	// Erased counts those whose person was forgotten.
	Erased int64 `json:"erased"`
	// Checkpoint is the hash of the last row in hexadecimal. A chain that was cut short or
	// rewritten as a whole verifies, but its head differs from one kept elsewhere.
	LastHash string `json:"head"`
	// Intact says that nothing was found.
	Intact bool `json:"intact"`
	// Problems says what is wrong, at most 100 of it, in the order of the chain.
	Problems []string `json:"problems"`
	// Checkpoints is how many heads the chain was checked against, and Signed how many of them have a right
	// signature.
	Checkpoints int `json:"heads,omitempty"`
	Signed      int `json:"signed,omitempty"`
}

// maxProblems bounds a report: after a row was changed, little is learnt from more.
const maxProblems = 100

func (r *ChainReport) addProblem(format string, args ...any) {
	if len(r.Problems) < maxProblems {
		r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
	}
}

// VerifyAudit reads the whole audit chain, of all keyspaces, and checks it: that no
// row is missing between the first and the last, none was changed, and none put in. It
// reads in pages, so writers are not held up, and returns an error only where the store failed.
func VerifyAudit(ctx context.Context, s Store) (ChainReport, error) {
	return verifyAudit(ctx, s, func(*ChainReport, *AuditRow) {})
}

// verifyAudit is VerifyAudit, and calls pass with every row, in order.
func verifyAudit(ctx context.Context, s Store, pass func(*ChainReport, *AuditRow)) (ChainReport, error) {
	const page = 1000
	r := ChainReport{Problems: []string{}}
	var last AuditRow
	for {
		var rows []AuditRow
		err := s.View(ctx, func(tx Tx) (err error) {
			rows, err = tx.Audit(AuditQuery{After: last.Seq, Ascending: true, Limit: page})
			return err
		})
		if err != nil {
			return r, err
		}
		for i := range rows {
			row := &rows[i]
			r.Events++
			if row.Seq != last.Seq+1 {
				r.addProblem("event %d follows event %d: what stood between is gone", row.Seq, last.Seq)
			}
			if !bytes.Equal(row.Prev, last.Hash) {
				r.addProblem("event %d (%s) does not follow from the event before it", row.Seq, row.ID)
			}
			if !bytes.Equal(row.Hash, row.computeHash()) {
				r.addProblem("event %d (%s) was changed", row.Seq, row.ID)
			}
			switch {
			case len(row.Personal) == 0 && len(row.Salt) == 0:
				r.Erased++
			case !bytes.Equal(row.PersonalHash, row.computePersonalHash()):
				r.addProblem("the actor, address or text of event %d (%s) was changed", row.Seq, row.ID)
			}
			pass(&r, row)
			last = *row
		}
		if len(rows) < page {
			r.LastHash = hex.EncodeToString(last.Hash)
			r.Intact = len(r.Problems) == 0
			return r, nil
		}
	}
}

// VerifyAudit checks the audit chain of the manager's store.
func (m *Manager) VerifyAudit(ctx context.Context) (ChainReport, error) {
	return VerifyAudit(ctx, m.store)
}

// VerifyAuditAgainst is VerifyAudit, and checks that the chain still has the heads
// that were kept elsewhere: that each is of this store, its event in the chain, with as many events up to
// there, and its signature made with this gateway's key or one of trusted. A head without a signature is taken only
// where there is no key to make it with.
func (m *Manager) VerifyAuditAgainst(ctx context.Context, heads []Checkpoint, trusted []ed25519.PublicKey) (ChainReport, error) {
	var store string
	if err := m.store.View(ctx, func(tx Tx) (err error) {
		store, _, err = tx.Identity()
		return err
	}); err != nil {
		return ChainReport{}, err
	}
	key, err := m.checkpointKey(store)
	if err != nil {
		return ChainReport{}, err
	}
	if key != nil {
		trusted = append(trusted[:len(trusted):len(trusted)], key.Public().(ed25519.PublicKey))
	}
	w := newCheckpointVerifier(heads)
	r, err := verifyAudit(ctx, m.store, w.check)
	if err != nil {
		return r, err
	}
	w.finish(&r)
	for _, h := range heads {
		r.Checkpoints++
		if h.Store != store {
			r.addProblem("%s is of another store, %.40q: this one is %q", h.label(), h.Store, store)
		}
		signed, wrong := h.verifySignature(trusted)
		if signed {
			r.Signed++
		}
		if wrong != "" {
			r.addProblem("%s %s", h.label(), wrong)
		}
	}
	r.Intact = len(r.Problems) == 0
	return r, nil
}
