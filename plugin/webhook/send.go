package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/keygate-dev/keygate/plugin/management/events"
	"github.com/keygate-dev/keygate/plugin/management/webhooks"
)

const (
	// userAgent names Keygate to endpoints.
	userAgent = "Keygate-Webhooks/1"
	// maxResponse is how many bytes of a response are read, and discarded.
	maxResponse = 64 << 10
	// maxError bounds the text of an error, in bytes.
	maxError = 300
)

// payload is a delivery's body.
type payload struct {
	Type      string          `json:"type"`
	Timestamp time.Time       `json:"timestamp"`
	Data      json.RawMessage `json:"data"`
}

// Body returns the body that is posted for an event: the same bytes in each attempt.
func Body(e events.Event) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(payload{e.Type, e.At.UTC(), e.Data}); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// attempt posts an event once. err is nil if the endpoint accepted it, with a status from 200 to 299; status is 0 if
// there was no response. Errors hold neither the URL nor a secret.
func (s *Service) attempt(ctx context.Context, w *events.WebhookRow, d *webhooks.DeliveryRow) (status int, err error) {
	defer func() {
		if err != nil && len(err.Error()) > maxError {
			err = errors.New(err.Error()[:maxError])
		}
	}()
	settings := s.Settings(w.Keyspace)
	now := s.now()
	secrets, err := openSecrets(settings.Sealer, w, now)
	if err != nil {
		return 0, err
	}
	body, err := Body(d.Event)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, bytes.NewReader(body))
	if err != nil {
		return 0, errors.New("the URL can't be used")
	}
	signature, err := Sign(d.Event.ID, now, body, secrets...)
	if err != nil {
		return 0, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", userAgent)
	r.Header.Set("Webhook-Id", d.Event.ID)
	r.Header.Set("Webhook-Timestamp", strconv.FormatInt(now.Unix(), 10))
	r.Header.Set("Webhook-Signature", signature)
	resp, err := s.client(w.Keyspace, settings.Reach).Do(r)
	if err != nil {
		s.logRejected(w, err)
		return 0, s.unanswered(err)
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, maxResponse))
	switch {
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		return resp.StatusCode, fmt.Errorf("answered %d: redirects are not followed; give the webhook the other URL", resp.StatusCode)
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		return resp.StatusCode, fmt.Errorf("answered %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	case err != nil && ctx.Err() != nil:
		return 0, fmt.Errorf("no whole answer within %s", s.Timeout)
	}
	return resp.StatusCode, nil
}

// unanswered returns why there was no response, in a text that the webhook's owner may read: without the URL, which may
// hold a token of the receiver, and without details of this network.
func (s *Service) unanswered(err error) error {
	var outer *url.Error
	if errors.As(err, &outer) {
		err = outer.Err
	}
	var name *net.DNSError
	var private *webhooks.PrivateError
	var connection *net.OpError
	switch {
	case errors.As(err, &private):
		return private
	case errors.Is(err, webhooks.ErrOwnListener):
		return webhooks.ErrOwnListener
	case errors.As(err, &name):
		return errors.New("the host's name can't be resolved")
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no answer within %s", s.Timeout)
	case errors.As(err, &connection):
		// The text of connection shows the address to which the host's name leads.
		return errors.New("the connection failed: " + errors.Unwrap(connection).Error())
	}
	return err
}

// openSecrets returns the secrets that sign a webhook's deliveries at the time now, the newest first.
func openSecrets(sealer webhooks.Sealer, w *events.WebhookRow, now time.Time) ([]string, error) {
	if sealer == nil {
		return nil, errors.New("the webhook's secret can't be decrypted, since the configuration has no secret: set secret {env.KEYGATE_SECRET}")
	}
	sealed := [][]byte{w.Secret}
	if len(w.Previous) > 0 && w.PreviousUntil.After(now) {
		sealed = append(sealed, w.Previous)
	}
	out := make([]string, 0, len(sealed))
	for i, b := range sealed {
		plain, err := sealer.Open(b, webhooks.Purpose(w.ID))
		if err != nil && i > 0 {
			continue // the newest secret is enough
		}
		if err != nil {
			return nil, err
		}
		out = append(out, string(plain))
	}
	return out, nil
}
