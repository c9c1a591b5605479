// Package idempotency carries out a request once that its sender names by a key, however often it is sent, also if
// the process is killed meanwhile.
package idempotency

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
)

// A request that its sender names by a key is carried out once, however often it is
// sent, also when this process is killed in the midst of it:
//
//   - Before it begins, a row claims it.
//   - What it changes and that it did so are one transaction, which also checks that the
//     claim is still the sender's. So of two that both hold it to be theirs one fails.
//   - Then its answer is stored. Where that did not come to pass, what was changed is
//     known from the row all the same, and the answer is made anew from the record.
const (
	// idempotencyTTL is how long a request and its answer are remembered.
	idempotencyTTL = 24 * time.Hour
	// claimTTL is how long a claim of another process is held to be alive that has changed nothing yet.
	claimTTL = time.Minute
	// endTimeout bounds the write that ends a claim.
	endTimeout = 10 * time.Second
)

// Codes of refused repetitions.
const (
	CodeRequestRunning = "request_running"
	CodeRequestDone    = "request_done"
	CodeKeyReused      = "idempotency_key_reused"
)

var (
	errRequestRunning = &management.Error{Status: http.StatusConflict, Code: CodeRequestRunning, RetryAfter: time.Second,
		Detail: "The request with this idempotency key is still being carried out. Ask again in a moment."}
	errKeyReused = management.Reject(http.StatusUnprocessableEntity, CodeKeyReused,
		"Another request was sent with this idempotency key. Take a new key for a new request.")
)

// Claim is a request that its holder carries out. Made by Begin, and ended by Finish or Abandon.
type Claim struct {
	manager *management.Manager
	id      []byte
	claim   string
}

// StoredResponse is the stored response of a request that was carried out before.
type StoredResponse struct {
	// Status, ETag and Body are the answer; Status is 0 where it was not kept.
	Status int
	ETag   string
	Body   string
	// Effect is what it led to; zero where it changed nothing.
	Effect Effect
}

// inProgress are the claims of this process: an endpoint and the console may be served by several handlers.
var inProgress claimsInProgress

// claimsInProgress are the claims of this process that are being carried out.
type claimsInProgress struct {
	mu     sync.Mutex
	claims map[string]bool
}

func (r *claimsInProgress) set(claim string, running bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.claims == nil {
		r.claims = map[string]bool{}
	}
	if running {
		r.claims[claim] = true
	} else {
		delete(r.claims, claim)
	}
}

func (r *claimsInProgress) has(claim string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.claims[claim]
}

// processName tells this process's claims from those of others on the same store.
var processName = rand.Text()

// Begin claims a request, which request is the digest of, for whom owner names under a
// key of theirs. It returns either the claim or what came of the request before. 409
// request_running where it is being carried out now, 422 idempotency_key_reused where
// the key was another request's.
func Begin(ctx context.Context, m *management.Manager, owner, key string, request []byte) (once *Claim, earlier *StoredResponse, err error) {
	id := sha256.Sum256([]byte(owner + "\x00" + key))
	claim := processName + rand.Text()
	inProgress.set(claim, true)
	defer func() {
		if once == nil {
			inProgress.set(claim, false)
		}
	}()
	err = m.Store().Update(ctx, inRows(func(tx Tx) error {
		once, earlier = nil, nil
		now := m.Clock()
		if err := tx.PruneIdempotency(now); err != nil {
			return err
		}
		row := &Record{ID: id[:], Request: request, Claim: claim, ClaimedAt: now, ExpiresAt: now.Add(idempotencyTTL)}
		fresh, err := tx.InsertIdempotency(row)
		if err != nil {
			return err
		}
		if !fresh {
			if row, err = tx.LockIdempotency(id[:]); err != nil {
				return err
			}
			switch {
			case !bytes.Equal(row.Request, request):
				return errKeyReused
			case row.Status != 0:
				earlier = &StoredResponse{row.Status, row.ETag, row.Body, row.Effect}
				return nil
			case claimAlive(row, now):
				return errRequestRunning
			case row.Effect.Action != "":
				earlier = &StoredResponse{Effect: row.Effect}
				return nil
			}
			// Whoever began it is gone and has changed nothing.
			row.Claim, row.ClaimedAt = claim, now
			if err := tx.UpdateIdempotency(row); err != nil {
				return err
			}
		}
		once = &Claim{manager: m, id: id[:], claim: claim}
		return nil
	}))
	if err != nil {
		once, earlier = nil, nil
	}
	return once, earlier, err
}

// claimAlive reports whether the request of a claim without a response may still run.
func claimAlive(row *Record, now time.Time) bool {
	if len(row.Claim) > len(processName) && row.Claim[:len(processName)] == processName {
		return inProgress.has(row.Claim)
	}
	return row.Effect.Action == "" && now.Sub(row.ClaimedAt) < claimTTL
}

// Context returns a context by which all that a Manager changes is part of the request.
func (o *Claim) Context(ctx context.Context) context.Context {
	return management.WithRecorder(ctx, o.record)
}

// record notes, in the transaction that makes a change, that the request made it.
func (o *Claim) record(c *management.Call) error {
	tx, err := management.Role[Tx](c.Tx)
	if err != nil {
		return err
	}
	row, err := tx.LockIdempotency(o.id)
	if errors.Is(err, gateway.ErrNotFound) || err == nil && row.Claim != o.claim {
		// It took so long that another process took it over.
		return errRequestRunning
	}
	if err != nil {
		return err
	}
	row.Effect = Effect{Action: c.Event.Action, Target: c.Event.Target}
	if n, ok := c.Event.After["credits"].(int64); ok {
		row.Effect.Balance = &n
	}
	return tx.UpdateIdempotency(row)
}

// Finish stores the request's answer, which must hold no secret.
func (o *Claim) Finish(ctx context.Context, status int, etag, body string) error {
	return o.end(ctx, func(tx Tx, row *Record) error {
		row.Status, row.ETag, row.Body = status, etag, body
		return tx.UpdateIdempotency(row)
	})
}

// Abandon gives the request up: where it changed nothing, it may be sent anew.
func (o *Claim) Abandon(ctx context.Context) error {
	return o.end(ctx, func(tx Tx, row *Record) error {
		if row.Effect.Action != "" {
			return nil
		}
		return tx.DeleteIdempotency(o.id)
	})
}

func (o *Claim) end(ctx context.Context, f func(Tx, *Record) error) error {
	defer inProgress.set(o.claim, false)
	// The caller may be gone, but the row is not theirs alone.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	return o.manager.Store().Update(ctx, inRows(func(tx Tx) error {
		row, err := tx.LockIdempotency(o.id)
		if errors.Is(err, gateway.ErrNotFound) || err == nil && row.Claim != o.claim {
			return nil
		}
		if err != nil {
			return err
		}
		return f(tx, row)
	}))
}

func inRows(f func(Tx) error) func(management.Tx) error {
	return func(tx management.Tx) error {
		rows, err := management.Role[Tx](tx)
		if err != nil {
			return err
		}
		return f(rows)
	}
}
