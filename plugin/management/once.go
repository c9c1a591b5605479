package management

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
	// onceKept is how long a request and its answer are remembered.
	onceKept = 24 * time.Hour
	// onceRunning is how long a claim of another process is held to be alive that has changed nothing yet.
	onceRunning = time.Minute
)

// Codes of refused repetitions.
const (
	CodeRequestRunning = "request_running"
	CodeRequestDone    = "request_done"
	CodeKeyReused      = "idempotency_key_reused"
)

var (
	errRequestRunning = &Error{Status: http.StatusConflict, Code: CodeRequestRunning, RetryAfter: time.Second,
		Detail: "The request with this idempotency key is still being carried out. Ask again in a moment."}
	errKeyReused = refuse(http.StatusUnprocessableEntity, CodeKeyReused,
		"Another request was sent with this idempotency key. Take a new key for a new request.")
)

// Once is a request that its holder carries out. Made by Begin, and ended by Finish or Abandon.
type Once struct {
	m     *Manager
	id    []byte
	claim string
}

// Earlier is what is known of a request that was carried out before.
type Earlier struct {
	// Status, ETag and Body are the answer; Status is 0 where it was not kept.
	Status int
	ETag   string
	Body   string
	// Done is what it led to; zero where it changed nothing.
	Done Done
}

// onceRunners are the claims of this process that are being carried out.
type onceRunners struct {
	mu      sync.Mutex
	running map[string]bool
}

func (r *onceRunners) set(claim string, running bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.running == nil {
		r.running = map[string]bool{}
	}
	if running {
		r.running[claim] = true
	} else {
		delete(r.running, claim)
	}
}

func (r *onceRunners) has(claim string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.running[claim]
}

// processName tells this process's claims from those of others on the same store.
var processName = rand.Text()

// Begin claims a request, which request is the digest of, for whom owner names under a
// key of theirs. It returns either the claim or what came of the request before. 409
// request_running where it is being carried out now, 422 idempotency_key_reused where
// the key was another request's.
func (m *Manager) Begin(ctx context.Context, owner, key string, request []byte) (once *Once, earlier *Earlier, err error) {
	id := sha256.Sum256([]byte(owner + "\x00" + key))
	claim := processName + rand.Text()
	m.once.set(claim, true)
	defer func() {
		if once == nil {
			m.once.set(claim, false)
		}
	}()
	err = m.store.Update(ctx, func(tx Tx) error {
		once, earlier = nil, nil
		now := m.clock()
		if err := tx.PruneOnce(now); err != nil {
			return err
		}
		row := &OnceRow{ID: id[:], Request: request, Claim: claim, ClaimedAt: now, ExpiresAt: now.Add(onceKept)}
		fresh, err := tx.InsertOnce(row)
		if err != nil {
			return err
		}
		if !fresh {
			if row, err = tx.LockOnce(id[:]); err != nil {
				return err
			}
			switch {
			case !bytes.Equal(row.Request, request):
				return errKeyReused
			case row.Status != 0:
				earlier = &Earlier{row.Status, row.ETag, row.Body, row.Done}
				return nil
			case m.alive(row, now):
				return errRequestRunning
			case row.Done.Action != "":
				earlier = &Earlier{Done: row.Done}
				return nil
			}
			// Whoever began it is gone and has changed nothing.
			row.Claim, row.ClaimedAt = claim, now
			if err := tx.UpdateOnce(row); err != nil {
				return err
			}
		}
		once = &Once{m: m, id: id[:], claim: claim}
		return nil
	})
	if err != nil {
		once, earlier = nil, nil
	}
	return once, earlier, err
}

// alive says whether a claim without an answer may still be being carried out.
func (m *Manager) alive(row *OnceRow, now time.Time) bool {
	if len(row.Claim) > len(processName) && row.Claim[:len(processName)] == processName {
		return m.once.has(row.Claim)
	}
	return row.Done.Action == "" && now.Sub(row.ClaimedAt) < onceRunning
}

type onceKey struct{}

// Context returns a context by which all that a Manager changes is part of the request.
func (o *Once) Context(ctx context.Context) context.Context {
	return context.WithValue(ctx, onceKey{}, o)
}

// commitOnce notes, in the transaction that makes a change, that the request made it.
func (c *call) commitOnce(ctx context.Context) error {
	o, _ := ctx.Value(onceKey{}).(*Once)
	if o == nil {
		return nil
	}
	row, err := c.LockOnce(o.id)
	if errors.Is(err, gateway.ErrNotFound) || err == nil && row.Claim != o.claim {
		// It took so long that another process took it over.
		return errRequestRunning
	}
	if err != nil {
		return err
	}
	row.Done = Done{Action: c.event.action, Target: c.event.target}
	if n, ok := c.event.after["credits"].(int64); ok {
		row.Done.Balance = &n
	}
	return c.UpdateOnce(row)
}

// Finish stores the request's answer, which must hold no secret.
func (o *Once) Finish(ctx context.Context, status int, etag, body string) error {
	return o.end(ctx, func(tx Tx, row *OnceRow) error {
		row.Status, row.ETag, row.Body = status, etag, body
		return tx.UpdateOnce(row)
	})
}

// Abandon gives the request up: where it changed nothing, it may be sent anew.
func (o *Once) Abandon(ctx context.Context) error {
	return o.end(ctx, func(tx Tx, row *OnceRow) error {
		if row.Done.Action != "" {
			return nil
		}
		return tx.DeleteOnce(o.id)
	})
}

func (o *Once) end(ctx context.Context, f func(Tx, *OnceRow) error) error {
	defer o.m.once.set(o.claim, false)
	// The caller may be gone, but the row is not theirs alone.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), besideTimeout)
	defer cancel()
	return o.m.store.Update(ctx, func(tx Tx) error {
		row, err := tx.LockOnce(o.id)
		if errors.Is(err, gateway.ErrNotFound) || err == nil && row.Claim != o.claim {
			return nil
		}
		if err != nil {
			return err
		}
		return f(tx, row)
	})
}

// KeyReceipt says where a key's state holds, as RevokeKey's receipt does.
func (m *Manager) KeyReceipt(ctx context.Context, a Actor, keyspace, id string) (Receipt, error) {
	k, err := m.Key(ctx, a, keyspace, id)
	if err != nil {
		return Receipt{}, err
	}
	return receipt(k, m.confirmAll(ctx, keyspace)), nil
}

// Token returns one token.
func (m *Manager) Token(ctx context.Context, a Actor, keyspace, id string) (r TokenRecord, err error) {
	err = m.read(ctx, a, keyspace, func(c *call) error {
		t, err := c.token(id)
		if err != nil {
			return err
		}
		r = tokenRecord(t, c.now)
		return nil
	})
	return r, err
}
