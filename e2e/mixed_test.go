package e2e

import (
	"strings"
	"testing"
)

// One host serves browsers that sign in with the product's own sessions, and an API that needs
// keys. The gateway leaves the browsers' credentials alone.
func TestBrowserSessionsWithKeys(t *testing.T) {
	t.Parallel()
	const cookie = `session=eyJhbGciOiJIUzI1NiJ9.kt_live_x-aaaaaaaaaaaaaaaaaaaaaaaa.x; theme="a b"; csrf=`
	// This token contains a key's prefix by chance.
	jwt := "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0Iiwia" + "kt_live_Aa0Bb1Cc2Dd3Ee4Ff5Gg6Hh7" + "fQ.c2ln_kt-bmF0dXJl"
	for name, credentials := range map[string]string{
		"default places": "",
		"X-API-Key only": "credentials {\n header X-API-Key\n}",
		"every place":    "credentials {\n authorization Bearer\n header X-API-Key\n query api_key\n cookie api_session\n}",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startTestSite(t, "", credentials, `keygate {
		optional /app/*
		public /login /assets/*
	}
	reverse_proxy {$KEYGATE_UPSTREAM}`)
			s.tenant(t, "acme", nil)
			k := s.key(t, "acme", nil)
			// untouched checks that the application's own headers and target arrived byte for
			// byte.
			untouched := func(a *answer, target string, header []string) {
				t.Helper()
				if a.want(200); a.reached == nil {
					t.Fatalf("%s: nothing reached the upstream", a.asked)
				}
				if a.reached.uri != target {
					t.Errorf("%s: the target is %s, want %s", a.asked, a.reached.uri, target)
				}
				for i := 0; i+1 < len(header); i += 2 {
					if got := a.reached.header.Values(header[i]); len(got) != 1 || got[0] != header[i+1] {
						t.Errorf("%s: %s is %q, want %q", a.asked, header[i], got, header[i+1])
					}
				}
			}
			for _, own := range [][]string{
				{"Authorization", "Bearer " + jwt}, {"Authorization", "bearer " + jwt}, {"Authorization", "Basic a3RfbGl2ZV86eA=="},
				{"Authorization", `Digest username="kt", realm="x", uri="/app/", response="kt_"`}, {"Authorization", "Bearer"}, {"Authorization", "Negotiate YII="},
				{"Cookie", cookie}, {"X-Api-Key", "the-app's-own"}, {"X-Auth-Token", jwt}, {"Authorization", "Bearer " + jwt, "Cookie", cookie, "X-Api-Key", "own"},
				{"Referer", "https://app.example/?api_key=own&x=" + jwt}, {"Cookie", "api_session=own; a=b"}, nil,
			} {
				for _, path := range []string{"/app/", "/app/page", "/login", "/assets/x.js"} {
					if path == "/app/" {
						path = "/app/x/y" // The pattern /app/* does not include /app/ itself.
					}
					for _, query := range []string{"", "?api_key=own&b=%20+%zz;c&&api_key=", "?token=" + jwt} {
						untouched(s.send(t, "GET", path+query, "", own...).clean(""), path+query, own)
					}
				}
			}
			// For a signed-in request with a key, the application gets the session and the key's
			// context.
			if name != "X-API-Key only" {
				a := s.send(t, "GET", "/app/page", "", "Authorization", "Bearer "+k.full, "Cookie", cookie).clean("acme")
				untouched(a, "/app/page", []string{"Cookie", cookie})
			}
			for _, path := range []string{"/app/page", "/api/x"} {
				a := s.send(t, "GET", path, "", "Authorization", "Bearer "+jwt, "X-API-Key", k.full, "Cookie", cookie).clean("acme")
				untouched(a, path, []string{"Authorization", "Bearer " + jwt, "Cookie", cookie})
				if strings.Contains(strings.Join(a.reached.header["X-Api-Key"], ""), k.full) {
					t.Errorf("%s: the key was forwarded", path)
				}
			}
			// An invalid key is rejected even on a path that needs none.
			s.send(t, "GET", "/app/page", "", "Authorization", "Bearer "+jwt, "X-API-Key", s.unknown()).rejected(401).problem("invalid_key")
			s.send(t, "GET", "/app/page", "", "X-API-Key", k.full[:len(k.full)-1]).rejected(401).problem("malformed_key")
			// On the API's paths, a session does not replace a key.
			a := s.send(t, "GET", "/api/x", "", "Cookie", cookie).rejected(401)
			a.problem("missing_key")
			s.send(t, "GET", "/api/x", "", "Authorization", "Basic dTpw").rejected(401).problem("missing_key")
			if name != "X-API-Key only" {
				s.send(t, "GET", "/api/x", "", "Authorization", "Bearer "+jwt).rejected(401).problem("malformed_key")
			}
		})
	}
}
