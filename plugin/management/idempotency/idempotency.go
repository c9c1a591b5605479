// Package idempotency carries out a request only once, however often its sender repeats it with
// the same idempotency key, and even if the process is killed while it runs.
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

// A request with an idempotency key has a record in the store:
//
//   - Before the request begins, Begin stores a record with a claim.
//   - The transaction that makes the change also stores the change's effect in the record. It
//     fails if the claim is no longer the sender's, so that of two processes only one makes the
//     change.
//   - Then Finish stores the response. If the process is killed before that, the effect is enough
//     to make the response again.
const (
	// idempotencyTTL is how long a record is kept.
	idempotencyTTL = 24 * time.Hour
	// claimTTL is how long the claim of another process is valid while the record has no effect.
	claimTTL = time.Minute
	// endTimeout bounds the write that ends a claim.
	endTimeout = 10 * time.Second
)

// These are the codes of errors for repeated requests.
const (
	CodeRequestRunning = "request_running"
	CodeRequestDone    = "request_done"
	CodeKeyReused      = "idempotency_key_reused"
)

var (
	errRequestRunning = &management.Error{Status: http.StatusConflict, Code: CodeRequestRunning, RetryAfter: time.Second,
		Detail: "The request with this idempotency key is still being carried out. Send it again in a moment."}
	errKeyReused = management.Reject(http.StatusUnprocessableEntity, CodeKeyReused,
		"Another request was sent with this idempotency key. Take a new key for a new request.")
)

// Claim is the right to carry out a request. Begin returns it, and Finish or Abandon ends it.
type Claim struct {
	manager *management.Manager
	id      []byte
	claim   string
}

// StoredResponse is the stored response of a request that was carried out before.
type StoredResponse struct {
	// Status, ETag and Body are the response; Status is 0 if the response was not stored.
	Status int
	ETag   string
	Body   string
	// Effect is the change that the request made; zero if it made none.
	Effect Effect
}

// inProgress holds the claims of all handlers of this process.
var inProgress claimsInProgress

// claimsInProgress is a set of claims whose requests are running.
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

// processName begins the claims of this process. It differs from those of other processes that
// share the store.
var processName = rand.Text()

// Begin claims a request. owner identifies the sender, key is the idempotency key, and request the
// digest of the request. Begin returns a claim, or the stored response of the same request. It
// returns 409 request_running while the request is being carried out, and 422
// idempotency_key_reused if the key belongs to another request.
func Begin(ctx context.Context, m *management.Manager, owner, key string, request []byte) (c *Claim, earlier *StoredResponse, err error) {
	id := sha256.Sum256([]byte(owner + "\x00" + key))
	claim := processName + rand.Text()
	inProgress.set(claim, true)
	defer func() {
		if c == nil {
			inProgress.set(claim, false)
		}
	}()
	err = m.Store().Update(ctx, inRows(func(tx Tx) error {
		c, earlier = nil, nil
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
			// The process that held the claim was stopped and has changed nothing.
			row.Claim, row.ClaimedAt = claim, now
			if err := tx.UpdateIdempotency(row); err != nil {
				return err
			}
		}
		c = &Claim{manager: m, id: id[:], claim: claim}
		return nil
	}))
	if err != nil {
		c, earlier = nil, nil
	}
	return c, earlier, err
}

// claimAlive reports whether the request of a claim without a response may still run.
func claimAlive(row *Record, now time.Time) bool {
	if len(row.Claim) > len(processName) && row.Claim[:len(processName)] == processName {
		return inProgress.has(row.Claim)
	}
	return row.Effect.Action == "" && now.Sub(row.ClaimedAt) < claimTTL
}

// Context returns a context for the calls of the Manager that carry out the request.
func (o *Claim) Context(ctx context.Context) context.Context {
	return management.WithRecorder(ctx, o.record)
}

// record stores the effect of a change in the transaction that makes the change.
func (o *Claim) record(c *management.Call) error {
	tx, err := management.Role[Tx](c.Tx)
	if err != nil {
		return err
	}
	row, err := tx.LockIdempotency(o.id)
	if errors.Is(err, gateway.ErrNotFound) || err == nil && row.Claim != o.claim {
		// The request took so long that another process has taken over the claim.
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

// Finish stores the response. It must hold no secret.
func (o *Claim) Finish(ctx context.Context, status int, etag, body string) error {
	return o.end(ctx, func(tx Tx, row *Record) error {
		row.Status, row.ETag, row.Body = status, etag, body
		return tx.UpdateIdempotency(row)
	})
}

// Abandon ends the claim without a response. If the request has changed nothing, it deletes the
// record, so that the request can be sent again.
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
	// The sender may be gone, but other requests wait for the record.
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
