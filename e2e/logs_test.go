package e2e

import (
	"net/http"
	"strings"
	"testing"
)

// No full key is in any log, wherever a client puts it and whatever fails. Each gateway's
// end looks for those that were made; here they are put everywhere.
func TestLogsHoldNoKey(t *testing.T) {
	t.Parallel()
	up := newUpstream(t)
	s := &site{gateway: start(t, shipped(t, "Caddyfile.example"), up), product: example}
	s.tenant(t, "acme", nil)
	k, revoked := s.key(t, "acme", nil), s.key(t, "acme", nil)
	s.post(t, revoked, "revoke", nil)
	stray := s.unknown()
	s.keep(stray)
	places := func(full string) [][]string { // a path, then headers
		return [][]string{
			{"/v1/x", "Authorization", "Bearer " + full},
			{"/v1/x", "Authorization", full},
			{"/v1/x", "X-Api-Key", full},
			{"/v1/x", "X-API-Key", full, "Authorization", "Bearer " + stray},
			{"/v1/" + full, "X-Api-Key", full},
			{"/v1/" + full},
			{"/v1/x?api_key=" + full},
			{"/v1/x?a=" + full + "&b=" + full, "X-Api-Key", full},
			{"/v1/x", "Referer", "https://example.com/?k=" + full},
			{"/v1/x", "User-Agent", "client/" + full},
			{"/v1/x", "Cookie", "key=" + full},
			{"/v1/x", "X-Anything", "a " + full + " b", "X-Api-Key", full},
			{"/health?k=" + full, "X-Api-Key", full},
			{"/readyz?k=" + full, "X-Api-Key", full},
		}
	}
	everywhere := func() {
		for _, full := range []string{k.full, revoked.full, stray} {
			for _, p := range places(full) {
				s.send(t, "GET", p[0], "", p[1:]...)
				s.send(t, "POST", p[0], full, p[1:]...)
			}
		}
	}
	everywhere()
	for _, host := range []string{"other.example.com", k.full + ".example.com"} { // no site is there
		r, tag := s.request(t, "GET", "/elsewhere/"+k.full, "", "X-Api-Key", k.full)
		r.Host = host
		if resp, err := s.client.Do(r); err != nil {
			t.Error(err)
		} else {
			s.gateway.read(t, resp, tag)
		}
	}
	up.answer("/v1/dies", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = w.Write([]byte("half"))
		panic(http.ErrAbortHandler)
	})
	for range 3 {
		r, _ := s.request(t, "GET", "/v1/dies?k="+k.full, "", "X-Api-Key", k.full)
		if resp, err := s.client.Do(r); err == nil {
			resp.Body.Close()
		}
	}
	up.server.CloseClientConnections()
	up.server.Close()
	everywhere() // every one that passes is a 502 now
	// Somebody takes a key for its id.
	for _, path := range []string{"/v1/keys/" + k.full, "/v1/tenants/" + k.full, "/v1/keys?prefix=" + k.full} {
		s.manage(t, "GET", path, nil)
	}
	s.keygate(t, "key", "get", k.full).exits(1)
	s.keygate(t, "key", "revoke", k.full).exits(1)
	log := s.log()
	if n := strings.Count(log, `"handled request"`); n < 100 {
		t.Errorf("only %d access lines: the test looks at something else", n)
	}
	if !strings.Contains(log, k.full[:12]+"…") {
		t.Error("no line shows a key as its prefix")
	}
	if !strings.Contains(log, "502") {
		t.Error("no line tells of the upstream's failure")
	}
}
