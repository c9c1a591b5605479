package e2e

import (
	"net/http"
	"testing"
	"time"
)

// A process that is suspended and continued, as by a debugger or a closed laptop, works on, and
// notices expired keys.
func TestProcessPaused(t *testing.T) {
	t.Parallel()
	s := &site{gateway: start(t, shipped(t, "Caddyfile.example"), newUpstream(t)), product: example}
	s.tenant(t, "acme", nil)
	short := s.key(t, "acme", record{"expires_at": after(500 * time.Millisecond)})
	k := s.key(t, "acme", nil)
	s.call(t, "GET", s.path, k.full).passed()
	s.call(t, "GET", s.path, short.full).passed()
	s.pause()
	time.Sleep(600 * time.Millisecond)
	s.resume()
	s.call(t, "GET", s.path, k.full).passed()
	s.call(t, "GET", s.path, short.full).rejected(http.StatusUnauthorized).problem("expired_key")
}
