package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/keygate-dev/keygate/plugin/management"
)

// IdempotencyHeader names a request that is to be carried out once. It is heeded on
// every POST that asks for a token.
const IdempotencyHeader = "Idempotency-Key"

// replayedHeader marks the answer of a request that was carried out before.
const replayedHeader = "Idempotent-Replayed"

// secretFields are the fields of an answer that are shown once: a replay has null in
// their place.
var secretFields = []string{"key", "token", "secret", "curl"}

// secretShown is the code of an answer whose secret was shown before.
const secretShown = "secret_already_shown"

// secretNote is part of records that hold a secret: Code is secretShown where a replay
// comes without it.
type secretNote struct {
	Code string `json:"code,omitempty"`
}

// rebuilds make the answer of a POST anew, by the route's pattern, from what it led to:
// for requests that were carried out and whose answer was not kept, because the process was
// killed in between. Routes that are not here answer 409 request_done then.
var rebuilds = map[string]func(*call, management.Effect) error{
	"POST /v1/tenants": func(c *call, d management.Effect) error {
		t, err := c.h.manager.Tenant(c.ctx, c.actor, c.keyspace, d.Target)
		if err != nil {
			return err
		}
		return c.record(http.StatusCreated, t.Version, t)
	},
	"POST /v1/tenants/{slug}/credits": func(c *call, d management.Effect) error {
		if d.Balance == nil {
			return errNoAnswer
		}
		return c.json(http.StatusOK, balance{*d.Balance})
	},
	"POST /v1/tenants/{slug}/keys": func(c *call, d management.Effect) error { return c.issuedBefore(http.StatusCreated, d) },
	"POST /v1/keys/{id}/rotate":    func(c *call, d management.Effect) error { return c.issuedBefore(http.StatusOK, d) },
	"POST /v1/keys/{id}/revoke":    (*call).receiptAgain,
	"POST /v1/keys/{id}/disable":   (*call).receiptAgain,
	"POST /v1/keys/{id}/enable":    (*call).receiptAgain,
	"POST /v1/tokens": func(c *call, d management.Effect) error {
		t, err := c.h.manager.Token(c.ctx, c.actor, c.keyspace, d.Target)
		if err != nil {
			return err
		}
		return c.json(http.StatusCreated, issuedToken{IssuedToken: management.IssuedToken{TokenRecord: t}})
	},
}

var errNoAnswer = errors.New("the answer can't be made again")

func (c *call) issuedBefore(status int, d management.Effect) error {
	k, err := c.h.manager.Key(c.ctx, c.actor, c.keyspace, d.Target)
	if err != nil {
		return err
	}
	return c.record(status, k.Version, issued{IssuedKey: management.IssuedKey{KeyRecord: k}})
}

func (c *call) receiptAgain(d management.Effect) error {
	r, err := c.h.manager.KeyReceipt(c.ctx, c.actor, c.keyspace, d.Target)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, r)
}

// serve carries the request out; once, where it says so.
func (b bound) serve(c *call) error {
	keys := c.r.Header.Values(IdempotencyHeader)
	if c.r.Method != http.MethodPost || len(keys) == 0 || b.route.scope == "" {
		return b.route.serve(c)
	}
	if len(keys) > 1 || !validIdempotencyKey(keys[0]) {
		return headerError(IdempotencyHeader, "must stand once, and be 1 to 255 visible ASCII characters")
	}
	request, err := c.digest()
	if err != nil {
		return err
	}
	// Of a token everything it sends is one owner's, whoever it acts for.
	owner := "admin " + c.actor.Name
	if c.actor.Token != "" {
		owner = "token " + c.actor.Token
	}
	once, earlier, err := c.h.manager.BeginIdempotent(c.ctx, owner, keys[0], request)
	if err != nil {
		return err
	}
	if earlier != nil {
		return b.replay(c, earlier)
	}
	return b.serveOnce(c, once)
}

func validIdempotencyKey(key string) bool {
	if key == "" || len(key) > 255 {
		return false
	}
	for _, b := range []byte(key) {
		if b <= ' ' || b >= 0x7f {
			return false
		}
	}
	return true
}

// digest reads the request's body, leaves it to be read again, and returns what tells
// the request from others.
func (c *call) digest() ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(c.w, c.r.Body, MaxBody))
	if err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			return nil, errBodyTooLarge
		}
		return nil, invalidJSON("The body could not be read to its end.")
	}
	c.r.Body = io.NopCloser(bytes.NewReader(body))
	h := sha256.New()
	for _, part := range []string{c.r.URL.EscapedPath(), c.keyspace, c.r.URL.RawQuery, string(body)} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return h.Sum(nil), nil
}

// serveOnce carries the request out under its claim. The answer goes out when it is
// stored, so that whoever has it can have it again.
func (b bound) serveOnce(c *call, once *management.IdempotencyClaim) error {
	w, held := c.w, &heldAnswer{header: c.w.Header()}
	finished := false
	defer func() {
		if !finished { // refused, failed or panicked
			b.h.ended(c.ctx, once.Abandon(c.ctx))
		}
	}()
	outer := c.ctx
	c.w, c.ctx = held, once.Context(outer)
	err := b.route.serve(c)
	c.w, c.ctx = w, outer
	if err != nil {
		return err
	}
	if held.status >= 200 && held.status < 300 {
		finished = true
		safe, _ := withoutSecrets(held.body.Bytes())
		b.h.ended(c.ctx, once.Finish(c.ctx, held.status, w.Header().Get("ETag"), string(safe)))
	}
	w.WriteHeader(held.status)
	_, _ = w.Write(held.body.Bytes())
	return nil
}

// ended notes that the end of a request could not be stored. It was carried out or not
// all the same, and a repetition will find out which.
func (h *Handler) ended(ctx context.Context, err error) {
	if err != nil {
		h.log.WarnContext(ctx, "the answer to a request with an idempotency key could not be stored", "error", err)
	}
}

// replay answers a request that was carried out before.
func (b bound) replay(c *call, e *management.StoredResponse) error {
	body, status := []byte(e.Body), e.Status
	if e.Status == 0 {
		w, held := c.w, &heldAnswer{header: http.Header{}}
		rebuild, err := rebuilds[b.route.pattern], errNoAnswer
		if rebuild != nil {
			c.w = held
			err = rebuild(c, e.Effect)
			c.w = w
		}
		var refused *management.Error
		if errors.As(err, &refused) || errors.Is(err, errNoAnswer) {
			return &management.Error{
				Status: http.StatusConflict, Code: management.CodeRequestDone,
				Detail: "The request was carried out before (" + e.Effect.Action + " " + e.Effect.Target + "), but its answer was not kept.",
			}
		}
		if err != nil {
			return err
		}
		status, e.ETag = held.status, held.header.Get("ETag")
		body, err = withoutSecrets(held.body.Bytes())
		if err != nil {
			return err
		}
	}
	h := c.w.Header()
	h.Set(replayedHeader, "true")
	if e.ETag != "" {
		h.Set("ETag", e.ETag)
	}
	if len(body) > 0 {
		h.Set("Content-Type", "application/json")
	}
	c.w.WriteHeader(status)
	_, _ = c.w.Write(body)
	return nil
}

// withoutSecrets returns an answer with null for what is shown once, and a code that
// says so; the answer itself where it has nothing of that kind.
func withoutSecrets(body []byte) ([]byte, error) {
	if len(body) == 0 {
		return body, nil
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil {
		return nil, err
	}
	had := false
	for _, name := range secretFields {
		if v := fields[name]; len(v) > 0 && v[0] == '"' {
			fields[name], had = json.RawMessage("null"), true
		}
	}
	if bytes.Contains(fields["url"], []byte(portalPath)) {
		fields["url"], had = json.RawMessage("null"), true
	}
	if !had {
		return body, nil
	}
	fields["code"] = json.RawMessage(`"` + secretShown + `"`)
	return json.Marshal(fields)
}

// heldAnswer holds an answer back. Its header is that of the writer it stands for.
type heldAnswer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *heldAnswer) Header() http.Header { return w.header }

func (w *heldAnswer) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}

func (w *heldAnswer) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(b)
}
