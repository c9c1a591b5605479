package audit

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
)

// Report is the result of verifying the audit chain.
type Report struct {
	// Events counts the rows that were read.
	Events int64 `json:"events"`
	// Erased counts the rows whose personal data was erased.
	Erased int64 `json:"erased"`
	// LastHash is the hash of the last row in hexadecimal. A chain that was cut short or rewritten as a whole verifies, but
	// its last hash differs from a checkpoint that was kept elsewhere.
	LastHash string `json:"head"`
	// Intact reports whether there are no problems.
	Intact bool `json:"intact"`
	// Problems are at most 100, in the order of the chain.
	Problems []string `json:"problems"`
	// Checkpoints counts the checkpoints that the chain was compared with, Signed those among them
	// with a valid signature.
	Checkpoints int `json:"heads,omitempty"`
	Signed      int `json:"signed,omitempty"`
}

// maxProblems bounds the problems in a report, since one change of the chain may cause many.
const maxProblems = 100

func (r *Report) addProblem(format string, args ...any) {
	if len(r.Problems) < maxProblems {
		r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
	}
}

// Reader runs f in a read-only transaction of the store.
type Reader func(ctx context.Context, f func(Tx) error) error

// Verify reads the whole chain, of all keyspaces, and checks that no row is missing between the first and the last, and
// that none was changed or inserted. It calls pass with each row, in order. It reads in pages, so it does not block writers,
// and returns an error only where the store failed.
func Verify(ctx context.Context, read Reader, pass func(*Report, *Row)) (Report, error) {
	const page = 1000
	r := Report{Problems: []string{}}
	var last Row
	for {
		var rows []Row
		err := read(ctx, func(tx Tx) (err error) {
			rows, err = tx.Audit(Query{After: last.Seq, Ascending: true, Limit: page})
			return err
		})
		if err != nil {
			return r, err
		}
		for i := range rows {
			row := &rows[i]
			r.Events++
			row.verify(&r, &last)
			if pass != nil {
				pass(&r, row)
			}
			last = *row
		}
		if len(rows) < page {
			r.LastHash = hex.EncodeToString(last.Hash)
			r.Intact = len(r.Problems) == 0
			return r, nil
		}
	}
}

// verify checks a row that follows last in the chain.
func (r *Row) verify(report *Report, last *Row) {
	if r.Seq != last.Seq+1 {
		report.addProblem("event %d follows event %d: the events between them are gone", r.Seq, last.Seq)
	}
	if !bytes.Equal(r.Prev, last.Hash) {
		report.addProblem("event %d (%s) does not follow from the event before it", r.Seq, r.ID)
	}
	if !bytes.Equal(r.Hash, r.computeHash()) {
		report.addProblem("event %d (%s) was changed", r.Seq, r.ID)
	}
	switch {
	case len(r.Personal) == 0 && len(r.Salt) == 0:
		report.Erased++
	case !bytes.Equal(r.PersonalHash, r.computePersonalHash()):
		report.addProblem("the actor, address or text of event %d (%s) was changed", r.Seq, r.ID)
	}
}

// VerifyCheckpoints verifies the chain as Verify does, and compares it with checkpoints that were
// kept elsewhere. Each must name this store. Its event must be in the chain, with as many events
// up to it as the checkpoint counts. One of the trusted keys must have signed it. A checkpoint
// without a signature is accepted only where no key is trusted.
func VerifyCheckpoints(ctx context.Context, read Reader, store string, list []Checkpoint, trusted []ed25519.PublicKey) (Report, error) {
	v := newCheckpointVerifier(list)
	r, err := Verify(ctx, read, v.check)
	if err != nil {
		return r, err
	}
	v.finish(&r)
	for _, c := range list {
		r.Checkpoints++
		if c.Store != store {
			r.addProblem("%s is of another store, %.40q: this one is %q", c.label(), c.Store, store)
		}
		signed, wrong := c.verifySignature(trusted)
		if signed {
			r.Signed++
		}
		if wrong != "" {
			r.addProblem("%s %s", c.label(), wrong)
		}
	}
	r.Intact = len(r.Problems) == 0
	return r, nil
}
