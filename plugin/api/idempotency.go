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
	"github.com/keygate-dev/keygate/plugin/management/auth"
	"github.com/keygate-dev/keygate/plugin/management/idempotency"
)

// IdempotencyHeader holds a key under which a request is carried out only once. It applies to
// every POST that needs a token.
const IdempotencyHeader = "Idempotency-Key"

// replayedHeader marks the response to a request that was carried out before.
const replayedHeader = "Idempotent-Replayed"

// secretFields are the fields of a response that are shown only once. A replayed response has null
// instead of them.
var secretFields = []string{"key", "token", "secret", "curl"}

// codeSecretShown is the code in a replayed response whose first copy showed the secret.
const codeSecretShown = "secret_already_shown"

// secretNote is embedded in records that hold a secret. Code is codeSecretShown in a replayed
// response, which has no secret.
type secretNote struct {
	Code string `json:"code,omitempty"`
}

// reproduce maps a route's pattern to a function that builds the response of a POST from the
// effect of the request. It is used after a process was killed between a change and the storing of
// its response. A route that is not in the map answers 409 request_done then.
var reproduce = map[string]func(*call, idempotency.Effect) error{
	"POST /v1/tenants": func(c *call, d idempotency.Effect) error {
		t, err := c.h.manager.Tenant(c.ctx, c.actor, c.keyspace, d.Target)
		if err != nil {
			return err
		}
		return c.record(http.StatusCreated, t.Version, t)
	},
	"POST /v1/tenants/{slug}/credits": func(c *call, d idempotency.Effect) error {
		if d.Balance == nil {
			return errNotReproducible
		}
		return c.json(http.StatusOK, balance{*d.Balance})
	},
	"POST /v1/tenants/{slug}/keys": func(c *call, d idempotency.Effect) error { return c.replayIssued(http.StatusCreated, d) },
	"POST /v1/keys/{id}/rotate":    func(c *call, d idempotency.Effect) error { return c.replayIssued(http.StatusOK, d) },
	"POST /v1/keys/{id}/revoke":    (*call).replayReceipt,
	"POST /v1/keys/{id}/disable":   (*call).replayReceipt,
	"POST /v1/keys/{id}/enable":    (*call).replayReceipt,
	"POST /v1/tokens": func(c *call, d idempotency.Effect) error {
		t, err := c.h.auth.Token(c.ctx, c.actor, c.keyspace, d.Target)
		if err != nil {
			return err
		}
		return c.json(http.StatusCreated, issuedToken{IssuedToken: auth.IssuedToken{TokenRecord: t}})
	},
}

var errNotReproducible = errors.New("the response can't be made again")

func (c *call) replayIssued(status int, d idempotency.Effect) error {
	k, err := c.h.manager.Key(c.ctx, c.actor, c.keyspace, d.Target)
	if err != nil {
		return err
	}
	return c.record(status, k.Version, issued{IssuedKey: management.IssuedKey{KeyRecord: k}})
}

func (c *call) replayReceipt(d idempotency.Effect) error {
	r, err := c.h.manager.KeyReceipt(c.ctx, c.actor, c.keyspace, d.Target)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, r)
}

// serve carries the request out. A request with an Idempotency-Key is carried out only once.
func (b bound) serve(c *call) error {
	keys := c.r.Header.Values(IdempotencyHeader)
	if c.r.Method != http.MethodPost || len(keys) == 0 || b.route.scope == "" {
		return b.route.serve(c)
	}
	if len(keys) > 1 || !validIdempotencyKey(keys[0]) {
		return headerError(IdempotencyHeader, "must be stated once, with 1 to 255 visible ASCII characters")
	}
	request, err := c.digest()
	if err != nil {
		return err
	}
	// All requests with one token share an owner, whichever person each request acts for.
	owner := "admin " + c.actor.Name
	if c.actor.Token != "" {
		owner = "token " + c.actor.Token
	}
	claim, earlier, err := idempotency.Begin(c.ctx, c.h.manager, owner, keys[0], request)
	if err != nil {
		return err
	}
	if earlier != nil {
		return b.replay(c, earlier)
	}
	return b.serveIdempotent(c, claim)
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

// digest returns a hash of the request's path, keyspace, query and body. It replaces the body, so
// that the body can be read again.
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

// serveIdempotent carries the request out under its claim. It stores the response before sending
// it, so that a client that received a response can receive the same response again.
func (b bound) serveIdempotent(c *call, claim *idempotency.Claim) error {
	w, buffered := c.w, &bufferedResponse{header: c.w.Header()}
	finished := false
	defer func() {
		if !finished { // The request was rejected, failed or panicked.
			b.h.logOutcome(c.ctx, claim.Abandon(c.ctx))
		}
	}()
	outer := c.ctx
	c.w, c.ctx = buffered, claim.Context(outer)
	err := b.route.serve(c)
	c.w, c.ctx = w, outer
	if err != nil {
		return err
	}
	if buffered.status >= 200 && buffered.status < 300 {
		finished = true
		safe, _ := withoutSecrets(buffered.body.Bytes())
		b.h.logOutcome(c.ctx, claim.Finish(c.ctx, buffered.status, w.Header().Get("ETag"), string(safe)))
	}
	w.WriteHeader(buffered.status)
	_, _ = w.Write(buffered.body.Bytes())
	return nil
}

// logOutcome logs that the outcome of a request could not be stored. When the request is repeated, the stored
// effect still shows whether the request was carried out.
func (h *Handler) logOutcome(ctx context.Context, err error) {
	if err != nil {
		h.log.WarnContext(ctx, "the outcome of a request with an idempotency key could not be stored: a repetition of the request may be answered 409", "error", err)
	}
}

// replay answers a request that was carried out before, from the stored response or the stored
// effect.
func (b bound) replay(c *call, e *idempotency.StoredResponse) error {
	body, status := []byte(e.Body), e.Status
	if e.Status == 0 {
		w, buffered := c.w, &bufferedResponse{header: http.Header{}}
		rebuild, err := reproduce[b.route.pattern], errNotReproducible
		if rebuild != nil {
			c.w = buffered
			err = rebuild(c, e.Effect)
			c.w = w
		}
		var rejected *management.Error
		if errors.As(err, &rejected) || errors.Is(err, errNotReproducible) {
			return &management.Error{
				Status: http.StatusConflict, Code: idempotency.CodeRequestDone,
				Detail: "The request was carried out before (" + e.Effect.Action + " " + e.Effect.Target + "), but its response was not kept.",
			}
		}
		if err != nil {
			return err
		}
		status, e.ETag = buffered.status, buffered.header.Get("ETag")
		body, err = withoutSecrets(buffered.body.Bytes())
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

// withoutSecrets returns the response with null instead of each secret, and with codeSecretShown.
// A response without secrets is returned unchanged.
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
	fields["code"] = json.RawMessage(`"` + codeSecretShown + `"`)
	return json.Marshal(fields)
}

// bufferedResponse keeps the status and the body of a response in memory.
type bufferedResponse struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *bufferedResponse) Header() http.Header { return w.header }

func (w *bufferedResponse) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}

func (w *bufferedResponse) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(b)
}
