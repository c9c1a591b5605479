package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"syscall"
	"time"

	"github.com/keygate-dev/keygate/caddymodule/adminapi"
)

// startWait is how long a command waits by default while the gateway is starting.
const startWait = 15 * time.Second

// startWaiter repeats a request while the gateway is starting.
type startWaiter struct {
	http.RoundTripper
	// wait is how long to repeat the request after the first try; 0 means one try.
	wait time.Duration
}

func (s *startWaiter) RoundTrip(r *http.Request) (*http.Response, error) {
	end := time.Now().Add(s.wait)
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		resp, err := s.RoundTripper.RoundTrip(r)
		if !starting(resp, err) || time.Until(end) < pause {
			return resp, err
		}
		if resp != nil {
			resp.Body.Close()
		}
		select {
		case <-time.After(pause):
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
		if r.GetBody != nil {
			body, err := r.GetBody()
			if err != nil {
				return nil, err
			}
			r = r.Clone(r.Context())
			r.Body = body
		}
	}
}

// starting reports whether the result of a request shows a gateway that is starting: either no
// server listens yet, or Caddy runs without the keygate app. In both cases the request had no
// effect, so that it can be repeated.
func starting(resp *http.Response, err error) bool {
	if err != nil {
		return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) // the socket's file is missing
	}
	if resp.StatusCode != http.StatusServiceUnavailable {
		return false
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(b), resp.Body), resp.Body}
	var problem struct {
		Code string `json:"code"`
	}
	return err == nil && json.Unmarshal(b, &problem) == nil && problem.Code == adminapi.CodeNotRunning
}
