package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
)

// problem is the body of an error response (RFC 9457).
type problem struct {
	Type   string                  `json:"type"`
	Title  string                  `json:"title"`
	Status int                     `json:"status"`
	Detail string                  `json:"detail"`
	Code   string                  `json:"code"`
	Errors []management.FieldError `json:"errors,omitempty"`
}

func unavailable(detail string) *management.Error {
	return &management.Error{Status: http.StatusServiceUnavailable, Code: management.CodeStoreUnavailable, Detail: detail}
}

// fail answers with err. A *management.Error is sent as it is, and a *management.Accepted is sent
// as its receipt. Every other error is logged and becomes a 503.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	var accepted *management.Accepted
	if errors.As(err, &accepted) {
		write(w, http.StatusAccepted, "application/json", accepted.Receipt)
		return
	}
	var refusal *management.Error
	if !errors.As(err, &refusal) {
		detail := "The store does not answer. Nothing is known to have changed; try again."
		if !errors.Is(err, gateway.ErrStore) {
			detail = "The request could not be answered; the log has the reason."
		} else if cause := management.Cause(err); cause != "" && h.opts.ShowCauses {
			detail = "The store can't be used: " + cause + ". Nothing is known to have changed."
		}
		if r.Context().Err() == nil {
			h.log.ErrorContext(r.Context(), "a management request failed and was answered 503", "route", r.Pattern, "error", err)
		}
		refusal = unavailable(detail)
	}
	writeProblem(w, refusal)
}

// writeProblem sends e as a problem (RFC 9457).
func writeProblem(w http.ResponseWriter, e *management.Error) {
	switch e.Status {
	case http.StatusUnauthorized:
		if w.Header().Get("WWW-Authenticate") == "" {
			// RFC 6750, section 3.1: the challenge names an error only if the request had a token.
			challenge := `Bearer realm="keygate"`
			if e.Code == management.CodeInvalidToken {
				challenge += `, error="invalid_token"`
			}
			w.Header().Set("WWW-Authenticate", challenge)
		}
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "1")
	}
	if e.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.FormatInt(int64((e.RetryAfter+time.Second-1)/time.Second), 10))
	}
	write(w, e.Status, "application/problem+json", problem{
		Type: "about:blank", Title: http.StatusText(e.Status), Status: e.Status,
		Detail: e.Detail, Code: e.Code, Errors: e.Fields,
	})
}

// WriteProblem sends a problem (RFC 9457), for handlers that reject a request before the API.
func WriteProblem(w http.ResponseWriter, status int, code, detail string) {
	w.Header().Set("Cache-Control", "no-store")
	writeProblem(w, &management.Error{Status: status, Code: code, Detail: detail})
}

func write(w http.ResponseWriter, status int, contentType string, v any) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // HTML characters are not escaped, because the response is not HTML and names stay readable.
	if err := e.Encode(v); err != nil {
		// Encoding can't fail, because every record of this package can be encoded.
		panic(err)
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes())
}

// json sends a record as JSON, with PendingHeader if gateways have not confirmed the change.
func (c *call) json(status int, v any) error {
	c.pending()
	write(c.w, status, "application/json", v)
	return nil
}

// PendingHeader lists, in the response to a change, the gateways that have not confirmed the
// change yet. Its value is the JSON array that a receipt has under "pending". The header is absent
// if all gateways have confirmed.
const PendingHeader = "Keygate-Pending"

// pending sets PendingHeader if gateways have not confirmed the change.
func (c *call) pending() {
	if len(c.confirmation.Pending) == 0 {
		return
	}
	if b, err := json.Marshal(management.PendingNodes(*c.confirmation)); err == nil {
		c.w.Header().Set(PendingHeader, string(b))
	}
}

// record sends a record that has a version, with the version as its ETag.
func (c *call) record(status int, version int64, v any) error {
	c.w.Header().Set("ETag", `"`+strconv.FormatInt(version, 10)+`"`)
	return c.json(status, v)
}

func (c *call) noContent() error {
	c.pending()
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}
