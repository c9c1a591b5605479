package management

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
)

// ChainReport is what verifying the audit chain found.
type ChainReport struct {
	// Events counts the rows that were read.
	Events int64 `json:"events"`
	// Erased counts those whose person was forgotten.
	Erased int64 `json:"erased"`
	// Head is the hash of the last row in hexadecimal. A chain that was cut short or
	// rewritten as a whole verifies, but its head differs from one kept elsewhere.
	Head string `json:"head"`
	// Intact says that nothing was found.
	Intact bool `json:"intact"`
	// Problems says what is wrong, at most 100 of it, in the order of the chain.
	Problems []string `json:"problems"`
}

// maxProblems bounds a report: after a row was changed, little is learnt from more.
const maxProblems = 100

func (r *ChainReport) problem(format string, args ...any) {
	if len(r.Problems) < maxProblems {
		r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
	}
}

// VerifyAudit reads the whole audit chain, of all keyspaces, and checks it: that no
// row is missing between the first and the last, none was changed, and none put in. It
// reads in pages, so writers are not held up, and returns an error only where the store failed.
func VerifyAudit(ctx context.Context, s Store) (ChainReport, error) {
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
				r.problem("event %d follows event %d: what stood between is gone", row.Seq, last.Seq)
			}
			if !bytes.Equal(row.Prev, last.Hash) {
				r.problem("event %d (%s) does not follow from the event before it", row.Seq, row.ID)
			}
			if !bytes.Equal(row.Hash, row.hash()) {
				r.problem("event %d (%s) was changed", row.Seq, row.ID)
			}
			switch {
			case len(row.Personal) == 0 && len(row.Salt) == 0:
				r.Erased++
			case !bytes.Equal(row.PersonalHash, row.hashPersonal()):
				r.problem("the actor, address or text of event %d (%s) was changed", row.Seq, row.ID)
			}
			last = *row
		}
		if len(rows) < page {
			r.Head = hex.EncodeToString(last.Hash)
			r.Intact = len(r.Problems) == 0
			return r, nil
		}
	}
}

// VerifyAudit checks the audit chain of the manager's store.
func (m *Manager) VerifyAudit(ctx context.Context) (ChainReport, error) {
	return VerifyAudit(ctx, m.store)
}
