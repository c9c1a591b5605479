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
)

// IdempotencyHeader names a request that is carried out only once. It applies to every POST that needs a token.
const IdempotencyHeader = "Idempotency-Key"

// replayedHeader marks the response of a request that was carried out before.
const replayedHeader = "Idempotent-Replayed"

// secretFields are the fields of a response that are shown once: a replay has null in their place.
var secretFields = []string{"key", "token", "secret", "curl"}

// codeSecretShown is the code of a response whose secret was shown before.
const codeSecretShown = "secret_already_shown"

// secretNote is part of records that hold a secret: Code is codeSecretShown in a replay, which holds none.
type secretNote struct {
	Code string `json:"code,omitempty"`
}

// reproduce holds, by the route's pattern, functions that make the response of a POST again from its effect. They serve
// requests that were carried out by a process that was killed before it stored the response. Other routes
// answer 409 request_done in that case.
var reproduce = map[string]func(*call, management.Effect) error{
	"POST /v1/tenants": func(c *call, d management.Effect) error {
		t, err := c.h.manager.Tenant(c.ctx, c.actor, c.keyspace, d.Target)
		if err != nil {
			return err
		}
		return c.record(http.StatusCreated, t.Version, t)
	},
	"POST /v1/tenants/{slug}/credits": func(c *call, d management.Effect) error {
		if d.Balance == nil {
			return errNotReproducible
		}
		return c.json(http.StatusOK, balance{*d.Balance})
	},
	"POST /v1/tenants/{slug}/keys": func(c *call, d management.Effect) error { return c.replayIssued(http.StatusCreated, d) },
	"POST /v1/keys/{id}/rotate":    func(c *call, d management.Effect) error { return c.replayIssued(http.StatusOK, d) },
	"POST /v1/keys/{id}/revoke":    (*call).replayReceipt,
	"POST /v1/keys/{id}/disable":   (*call).replayReceipt,
	"POST /v1/keys/{id}/enable":    (*call).replayReceipt,
	"POST /v1/tokens": func(c *call, d management.Effect) error {
		t, err := c.h.auth.Token(c.ctx, c.actor, c.keyspace, d.Target)
		if err != nil {
			return err
		}
		return c.json(http.StatusCreated, issuedToken{IssuedToken: auth.IssuedToken{TokenRecord: t}})
	},
}

var errNotReproducible = errors.New("the response can't be made again")

func (c *call) replayIssued(status int, d management.Effect) error {
	k, err := c.h.manager.Key(c.ctx, c.actor, c.keyspace, d.Target)
	if err != nil {
		return err
	}
	return c.record(status, k.Version, issued{IssuedKey: management.IssuedKey{KeyRecord: k}})
}

func (c *call) replayReceipt(d management.Effect) error {
	r, err := c.h.manager.KeyReceipt(c.ctx, c.actor, c.keyspace, d.Target)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, r)
}

// serve carries the request out, only once if it has an Idempotency-Key.
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
	// All requests of a token have the same owner, whomever it acts for.
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
	return b.serveIdempotent(c, once)
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

// digest reads the request's body, puts it back, and returns a hash that identifies the request.
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

// serveIdempotent carries the request out under its claim. It sends the response after storing it, so that a client that
// received a response can receive it again.
func (b bound) serveIdempotent(c *call, once *management.IdempotencyClaim) error {
	w, held := c.w, &bufferedResponse{header: c.w.Header()}
	finished := false
	defer func() {
		if !finished { // rejected, failed or panicked
			b.h.logOutcome(c.ctx, once.Abandon(c.ctx))
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
		b.h.logOutcome(c.ctx, once.Finish(c.ctx, held.status, w.Header().Get("ETag"), string(safe)))
	}
	w.WriteHeader(held.status)
	_, _ = w.Write(held.body.Bytes())
	return nil
}

// logOutcome logs that the outcome of a request could not be stored. A repetition of the request finds out whether it
// was carried out.
func (h *Handler) logOutcome(ctx context.Context, err error) {
	if err != nil {
		h.log.WarnContext(ctx, "the response to a request with an idempotency key could not be stored", "error", err)
	}
}

// replay answers a request that was carried out before.
func (b bound) replay(c *call, e *management.StoredResponse) error {
	body, status := []byte(e.Body), e.Status
	if e.Status == 0 {
		w, held := c.w, &bufferedResponse{header: http.Header{}}
		rebuild, err := reproduce[b.route.pattern], errNotReproducible
		if rebuild != nil {
			c.w = held
			err = rebuild(c, e.Effect)
			c.w = w
		}
		var refused *management.Error
		if errors.As(err, &refused) || errors.Is(err, errNotReproducible) {
			return &management.Error{
				Status: http.StatusConflict, Code: management.CodeRequestDone,
				Detail: "The request was carried out before (" + e.Effect.Action + " " + e.Effect.Target + "), but its response was not kept.",
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

// withoutSecrets returns a response with null in place of each secret, and codeSecretShown; the response itself where it
// holds no secret.
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

// bufferedResponse buffers a response. Its header is that of the real writer.
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
