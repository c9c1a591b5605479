package e2e

import (
	"bytes"
	"crypto/sha256"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
)

// TestConvoy checks what the web page of the product Convoy promises in "Authentication".
func TestConvoy(t *testing.T) {
	t.Parallel()
	s := startProduct(t, convoy)
	const (
		required = `{"detail": "API key required. Include X-API-Key header."}`
		format   = `{"detail": "Invalid API key format."}`
		invalid  = `{"detail": "Invalid API key."}`
		expired  = `{"detail": "API key has expired."}`
		inactive = `{"detail": "Project is inactive."}`
		notFound = `{"detail": "Cargo not found"}`
	)
	load := func(t *testing.T, key string, header ...string) *answer {
		t.Helper()
		return s.call(t, "POST", "/cargo/load", key, header...)
	}

	t.Run("convoy_sk_ and 32 random characters in X-API-Key", func(t *testing.T) {
		s.tenant(t, "shape", nil)
		k := s.key(t, "shape", nil)
		s.shaped(t, k.full)
		load(t, k.full).want(http.StatusAccepted)
		// All 32 characters of a key are random, without a checksum. So the gateway can't reject a made-up key by
		// its form.
		for range 20 {
			load(t, s.unknown()).rejected(http.StatusUnauthorized).says(invalid)
		}
		for _, sent := range []string{
			"convoy_sk_your_key_here", s.unknown()[:41], s.unknown() + "a", "convoy_sk_" + strings.Repeat("-", 32),
			"convoy_pk_" + strings.Repeat("a", 32), knouds.unknown(), "x", k.full + ", " + k.full,
		} {
			load(t, sent).rejected(http.StatusUnauthorized).says(format)
		}
		load(t, "").rejected(http.StatusUnauthorized).says(required)
		load(t, "", "X-API-Key", "").rejected(http.StatusUnauthorized).says(required)
		load(t, "", "Authorization", "Bearer "+k.full).rejected(http.StatusUnauthorized).says(required)
		load(t, k.full, "X-Api-Key", s.unknown()).rejected(http.StatusBadRequest)
		for _, name := range []string{"x-api-key", "X-Api-Key", "X-API-KEY"} {
			load(t, "", name, k.full).want(http.StatusAccepted)
		}
	})

	t.Run("projects", func(t *testing.T) {
		s.tenant(t, "my-project", record{"name": "My project"})
		s.manage(t, "POST", "/v1/tenants", record{"slug": "my-project"}).want(http.StatusConflict).problem("slug_taken")
		s.manage(t, "POST", "/v1/tenants", record{"slug": "My-Project"}).want(http.StatusConflict).problem("slug_taken")
		a, b := s.key(t, "my-project", nil), s.key(t, "my-project", nil)
		off := s.key(t, "my-project", nil)
		s.post(t, off, "disable", nil)
		s.tenant(t, "another", nil)
		foreign := s.key(t, "another", nil)
		cargo := load(t, a.full).want(http.StatusAccepted).json().text("cargo_id")

		s.keygate(t, "tenant", "suspend", "my-project").exits(0)
		for _, k := range []key{a, b} {
			load(t, k.full).rejected(http.StatusForbidden).says(inactive)
		}
		load(t, foreign.full).want(http.StatusAccepted)
		s.keygate(t, "tenant", "activate", "my-project").exits(0)
		// After the end of the suspension, every key and all data are as before.
		s.call(t, "GET", "/cargo/"+cargo+"/tracking", a.full).passed()
		s.call(t, "GET", "/cargo/"+cargo+"/tracking", b.full).passed()
		load(t, off.full).rejected(http.StatusUnauthorized).says(invalid)
	})

	t.Run("a key's properties, and SHA-256 in the store", func(t *testing.T) {
		s.tenant(t, "props", nil)
		until := time.Now().Add(time.Hour).UTC().Truncate(time.Millisecond)
		k := s.key(t, "props", record{"name": "Production", "expires_at": until.Format(time.RFC3339Nano)})
		r := s.read(t, "/v1/keys/"+k.id)
		if r["name"] != "Production" || r["key_prefix"] != k.full[:12] || r["last_four"] != k.full[len(k.full)-4:] || r["is_active"] != true || r["last_used_at"] != nil {
			t.Errorf("the record is %v", r)
		}
		if at, err := time.Parse(time.RFC3339Nano, r.text("expires_at")); err != nil || !at.Equal(until) {
			t.Errorf("expires_at is %v, want %s", r["expires_at"], until)
		}
		digest := sha256.Sum256([]byte(k.full))
		if !bytes.Contains(s.stored(), digest[:]) {
			t.Error("the key's SHA-256 is not in the store")
		}
	})

	t.Run("last_used_at is the last successful authentication", func(t *testing.T) {
		s.tenant(t, "used", nil)
		k := s.key(t, "used", record{"rate": "3/h"})
		last := usedAfter(t, s, k, time.Time{}, func() { load(t, k.full).want(http.StatusAccepted) })
		s.patch(t, "/v1/tenants/used", record{"active": false})
		last = usedAfter(t, s, k, last, func() { load(t, k.full).rejected(http.StatusForbidden) })
		s.patch(t, "/v1/tenants/used", record{"active": true})
		for range 2 {
			load(t, k.full).want(http.StatusAccepted)
		}
		last = usedAfter(t, s, k, last, func() { load(t, k.full).rejected(http.StatusTooManyRequests) })
		s.post(t, k, "disable", nil)
		load(t, k.full).rejected(http.StatusUnauthorized)
		// The gateway has stored the key's last use by the time it has stopped. A rejected request does not
		// change the last use.
		s.restart()
		if r := s.read(t, "/v1/keys/"+k.id); !usedAt(t, r).Equal(last) {
			t.Errorf("last_used_at is %v, want %s", r["last_used_at"], last)
		}
	})

	t.Run("the page's error messages", func(t *testing.T) {
		s.tenant(t, "words", nil)
		revoked, disabled, ended := s.key(t, "words", nil), s.key(t, "words", nil), s.key(t, "words", record{"expires_at": after(300 * time.Millisecond)})
		load(t, ended.full).want(http.StatusAccepted)
		s.post(t, revoked, "revoke", nil)
		s.post(t, disabled, "disable", nil)
		load(t, revoked.full).rejected(http.StatusUnauthorized).says(invalid)
		load(t, disabled.full).rejected(http.StatusUnauthorized).says(invalid)
		testkit.Eventually(t, "the key has expired", func() bool { return load(t, ended.full).status == http.StatusUnauthorized })
		a := load(t, ended.full).rejected(http.StatusUnauthorized).says(expired)
		if ct := a.header.Get("Content-Type"); ct != "application/json" {
			t.Errorf("Content-Type %q", ct)
		}
		if r := s.read(t, "/v1/keys/"+ended.id); r["status"] != "expired" || r["is_active"] != false {
			t.Errorf("the record is %v", r)
		}
	})

	t.Run("only the cargo endpoints need a key", func(t *testing.T) {
		s.tenant(t, "public", nil)
		k := s.key(t, "public", nil)
		for _, path := range []string{"/", "/docs", "/cargo", "/cargo/load/more", "/cargo/x/tracking/y", "/cargo/tracking", "/health", "/cargo/a/b/tracking2"} {
			for _, sent := range []string{"", s.unknown(), k.full, "the-apps-own"} {
				a := s.call(t, "GET", path, sent, "X-Tenant-ID", "evil", "X-Key-ID", "evil", "X_Tenant_ID", "evil").passed()
				for name, values := range a.reached.header {
					v := strings.Join(values, " ")
					if strings.Contains(v, "evil") || strings.HasPrefix(name, "X-Tenant") || strings.HasPrefix(name, "X-Key") {
						t.Errorf("%s: the upstream saw %s: %q", path, name, v)
					}
					if strings.Contains(v, "convoy_sk_") {
						t.Errorf("%s: the upstream saw a key in %s", path, name)
					}
				}
				if got := a.reached.header.Get("X-Api-Key"); sent == "the-apps-own" && got != sent {
					t.Errorf("%s: the app's own header became %q", path, got)
				}
			}
		}
		for _, path := range []string{
			"/cargo/load", "/cargo/load/", "/cargo//load", "//cargo/load", "/cargo/./load", "/cargo/x/../load", "/Cargo/Load", "/cargo/%6coad",
			"/cargo/load?x=y", "/cargo/1/tracking", "/cargo/1/TRACKING", "/cargo/1/tracking/", "/cargo/load.json", "/index.php/cargo/load", "/x/index.php/cargo/1/tracking.xml",
			"/docs/../cargo/load", "/docs/%2e%2e/cargo/load",
		} {
			for _, method := range []string{"GET", "POST", "HEAD", "PUT", "BREW"} {
				a := s.call(t, method, path, "").rejected(http.StatusUnauthorized)
				if method != "HEAD" {
					a.says(required)
				}
			}
		}
		for _, path := range []string{"/cargo%2fload", "/cargo/load;x=y", "/cargo/1%2f2/tracking", "/cargo/1/tracking%3b", "/cargo/load%20"} {
			s.call(t, "GET", path, k.full).rejected(http.StatusBadRequest).says(`{"detail": "The request path is ambiguous."}`)
		}
	})

	t.Run("another project's cargo is not found", func(t *testing.T) {
		s.tenant(t, "owner", nil)
		s.tenant(t, "stranger", nil)
		mine, theirs := s.key(t, "owner", nil), s.key(t, "stranger", nil)
		second := s.key(t, "owner", nil)
		path := "/cargo/" + load(t, mine.full).want(http.StatusAccepted).json().text("cargo_id") + "/tracking"
		s.call(t, "GET", path, mine.full).passed()
		s.call(t, "GET", path, second.full).passed()
		s.call(t, "GET", path, theirs.full).want(http.StatusNotFound).says(notFound)
		s.call(t, "GET", path, theirs.full, "X-Tenant-ID", "owner", "x-tenant_id", "owner").want(http.StatusNotFound).says(notFound)
		s.call(t, "GET", "/cargo/none/tracking", mine.full).want(http.StatusNotFound).says(notFound)
	})

	t.Run("deactivated without deletion", func(t *testing.T) {
		s.tenant(t, "switch", nil)
		k := s.key(t, "switch", nil)
		for range 3 {
			load(t, k.full).want(http.StatusAccepted)
			s.post(t, k, "disable", nil)
			load(t, k.full).rejected(http.StatusUnauthorized).says(invalid)
			if r := s.read(t, "/v1/keys/"+k.id); r["is_active"] != false || r["status"] != "disabled" {
				t.Errorf("disabled, the record is %v", r)
			}
			s.post(t, k, "enable", nil)
		}
		s.keygate(t, "key", "disable", k.id).exits(0)
		load(t, k.full).rejected(http.StatusUnauthorized)
		s.keygate(t, "key", "enable", k.id).exits(0)
		load(t, k.full).want(http.StatusAccepted)
	})

	t.Run("shown once", func(t *testing.T) {
		s.tenant(t, "once", nil)
		k := s.key(t, "once", nil)
		load(t, k.full).want(http.StatusAccepted)
		s.shownOnce(t, k)
	})
}

// usedAt returns the last use of a key according to its record. The zero time means that the key was
// never used.
func usedAt(t testing.TB, r record) time.Time {
	t.Helper()
	if r["last_used_at"] == nil {
		return time.Time{}
	}
	at, err := time.Parse(time.RFC3339Nano, r.text("last_used_at"))
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// usedAfter uses a key and waits until the key's record shows the use. It returns the recorded time. That
// time must be after last and not before the use.
func usedAfter(t testing.TB, s *site, k key, last time.Time, use func()) (at time.Time) {
	t.Helper()
	begin := time.Now()
	use()
	testkit.Eventually(t, "last_used_at", func() bool {
		at = usedAt(t, s.read(t, "/v1/keys/"+k.id))
		// The begin is truncated, because the API may state the time of last use in milliseconds.
		return at.After(last) && !at.Before(begin.Truncate(time.Millisecond))
	})
	return at
}
