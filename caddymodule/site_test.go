package caddymodule

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/auth"
)

// testSite is a site of a Caddy in this process, and a key whose plan has no limits.
type testSite struct {
	t   *testing.T
	url string
	// key is the full key, id its id.
	key, id string
	manager *management.Manager
}

// siteAnswer is the response of a site.
type siteAnswer struct {
	status int
	header http.Header
	body   string
}

// newTestSite starts a configuration with these words replaced: DIR by a directory, SITE by the
// site's address, KEYGATE by options that every keygate block needs, and UPSTREAM by the address
// of a server with the handler handle.
func newTestSite(t *testing.T, config string, handle http.HandlerFunc) *testSite {
	t.Helper()
	up := httptest.NewServer(handle)
	t.Cleanup(up.Close)
	dir := t.TempDir()
	address := fmt.Sprint("http://127.0.0.1:", freePort(t))
	loadCaddyfile(t, strings.NewReplacer(
		"DIR", dir, "SITE", address, "UPSTREAM", up.Listener.Addr().String(),
		"KEYGATE", "store sqlite "+dir+"/keygate.db\nplan free {\n}\ndefault_plan free",
	).Replace(config))
	s := &testSite{t: t, url: address, manager: current(t).engine.Manager()}
	actor := management.Actor{Name: "test", Via: "cli"}
	if _, err := s.manager.CreateTenant(context.Background(), actor, "", "acme", management.TenantFields{}); err != nil {
		t.Fatal(err)
	}
	k, err := s.manager.CreateKey(context.Background(), actor, "", "acme", management.KeyFields{Name: management.Some("ci")})
	if err != nil {
		t.Fatal(err)
	}
	s.key, s.id = k.Key, k.ID
	return s
}

// get sends a request without following redirects. header holds names and values in turn.
func (s *testSite) get(method, path string, header ...string) siteAnswer {
	s.t.Helper()
	r, err := http.NewRequest(method, s.url+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return siteAnswer{resp.StatusCode, resp.Header, string(b)}
}

// minimal holds the global options of a site without limits.
const minimal = `{
	admin off
	persist_config off
	auto_https off
	log default {
		output discard
	}
	keygate {
		KEYGATE
		MORE
	}
}
`

// siteConfig returns a configuration with one site. more is added to the keygate block.
func siteConfig(more, site string) string {
	return strings.ReplaceAll(minimal, "MORE", more) + "SITE {\n" + site + "\n}\n"
}

// The API rejects a request whose header Keygate-Actor holds a key, so the audit never records
// one.
func TestActorHoldsNoKey(t *testing.T) {
	s := newTestSite(t, siteConfig("", "keygate_api"), nil)
	token, err := auth.New(s.manager).CreateToken(t.Context(), management.Actor{Name: "test", Via: "cli"}, "", auth.TokenFields{
		Name: management.Some("app"), Scopes: management.Some([]string{"*"}),
	})
	if err != nil {
		t.Fatal(err)
	}
	a := s.get("POST", "/v1/keys/"+s.id+"/disable", "Authorization", "Bearer "+token.Token, "Keygate-Actor", "I%20am "+s.key)
	if a.status != http.StatusUnprocessableEntity || !strings.Contains(a.body, "Keygate-Actor") || strings.Contains(a.body, s.key) {
		t.Errorf("answered %d %s", a.status, a.body)
	}
}
