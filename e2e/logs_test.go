package e2e

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// planted returns functions that put a key into a request in the ways in which clients and proxies
// do.
func planted(key string) map[string]func(*http.Request) {
	set := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Add(name, value) }
	}
	return map[string]func(*http.Request){
		"Bearer":       set("Authorization", "Bearer "+key),
		"X-API-Key":    set("X-API-Key", key),
		"custom":       set("Api-Token", key),
		"not a place":  set("X-Secret", "the key is "+key+"."),
		"no scheme":    set("Authorization", key),
		"Basic":        set("Authorization", "Basic "+key),
		"query":        func(r *http.Request) { r.URL.RawQuery = "a=1&api_key=" + key },
		"other query":  func(r *http.Request) { r.URL.RawQuery = "token=" + key + "&api_key=" + key },
		"escaped":      func(r *http.Request) { r.URL.RawQuery = "api_key=" + escapeAll(key) },
		"twice":        func(r *http.Request) { r.URL.RawQuery = "x=" + url.QueryEscape(escapeAll(key)) },
		"path":         func(r *http.Request) { r.URL.Path += "/" + key },
		"Referer":      set("Referer", "https://app.example/?api_key="+key),
		"Cookie":       set("Cookie", "a=b; session_key="+key),
		"User-Agent":   set("User-Agent", "curl "+key),
		"Forwarded":    set("X-Forwarded-For", key),
		"Origin":       set("Origin", "https://"+key),
		"a name":       set("X-"+strings.ReplaceAll(key, "_", "-"), "1"),
		"Upgrade":      set("Upgrade", key),
		"Idempotency":  set("Idempotency-Key", key),
		"username":     func(r *http.Request) { r.SetBasicAuth(key, key) },
		"method":       func(r *http.Request) { r.Header.Set("X-HTTP-Method-Override", key) },
		"comma-joined": set("X-API-Key", key+","+key),
	}
}

func escapeAll(s string) string {
	var b strings.Builder
	for i := range len(s) {
		fmt.Fprintf(&b, "%%%02X", s[i])
	}
	return b.String()
}

// leaks returns the lines of text that contain a full key, plain or escaped.
func leaks(text string, keys []string) (found []string) {
	for _, key := range keys {
		// The part of a key that is never shown identifies the key, however its beginning is
		// written.
		hidden := key[12 : len(key)-4]
		for _, form := range []string{hidden, escapeAll(hidden), strings.ToLower(escapeAll(hidden)), url.QueryEscape(escapeAll(hidden))} {
			for at := 0; ; {
				i := strings.Index(text[at:], form)
				if i < 0 {
					break
				}
				at += i
				begin := strings.LastIndexByte(text[:at], '\n') + 1
				end := len(text)
				if n := strings.IndexByte(text[at:], '\n'); n >= 0 {
					end = at + n
				}
				found = append(found, text[begin:min(end, begin+1500)])
				at += len(form)
			}
		}
	}
	return found
}

func TestKeysAreNotWritten(t *testing.T) {
	t.Parallel()
	t.Run("by a logger that knows nothing of keys", func(t *testing.T) {
		t.Parallel()
		checkKeysAreNotWritten(t, "json", false)
	})
	t.Run("by one with the filter", func(t *testing.T) {
		t.Parallel()
		checkKeysAreNotWritten(t, `filter {
			wrap console
			request>uri keygate
			request>headers keygate
			resp_headers keygate
			uri keygate
		}`, true)
	})
}

func checkKeysAreNotWritten(t *testing.T, format string, filtered bool) {
	up := newUpstream(t)
	config := configText(`log {
		level DEBUG
		format `+format+`
	}
	metrics`, keyspaceText(`credentials {
				authorization Bearer
				header X-API-Key
				header Api-Token
				query api_key
				cookie session_key
			}
			plan tiny {
				rate 1/d
			}`), `log {
		output file {$ACCESS_LOG}
		format `+format+`
		level DEBUG
	}
	log_append orig {http.request.orig_uri}
	log_append uri {http.request.uri}
	log_append agent {http.request.header.User-Agent}
	keygate {
		public /open /open/*
		optional /app /app/*
		scope /admin /admin/* admin
	}
	handle /down* {
		reverse_proxy 127.0.0.1:1
	}
	handle /broken* {
		error "cannot serve {http.request.uri}" 500
	}
	handle_path /moved/* {
		reverse_proxy {$KEYGATE_UPSTREAM}
	}
	handle_errors {
		@proxied path /down/*
		reverse_proxy @proxied 127.0.0.1:1
		@echoed path /broken /broken/*
		respond @echoed "{http.error.status_code} {http.request.uri}"
	}
	reverse_proxy {$KEYGATE_UPSTREAM}`)
	dir := t.TempDir()
	accessLog := filepath.Join(dir, "access.log")
	s := startOn(t, up, config, "ACCESS_LOG="+accessLog)
	up.answer("/die", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		fmt.Fprint(w, "part")
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	up.answer("/hang", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	up.answer("/open/hang", up.other["/hang"])

	s.tenant(t, "acme", nil)
	s.tenant(t, "small", record{"plan": "tiny"})
	s.tenant(t, "gone", nil)
	good := s.key(t, "acme", nil)
	reader := s.key(t, "acme", record{"scopes": []string{"read"}})
	spent := s.key(t, "small", nil)
	s.call(t, "GET", "/ping", spent.full).passed()
	revoked, suspended := s.key(t, "acme", nil), s.key(t, "gone", nil)
	s.post(t, revoked, "revoke", nil)
	s.patch(t, "/v1/tenants/gone", record{"active": false})
	rotated := s.made(t, s.post(t, good, "rotate", record{"grace": "1h"}))
	keys := []string{good.full, rotated.full, reader.full, spent.full, revoked.full, suspended.full, s.unknown()}

	send := func(path string, plant func(*http.Request), also string) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, "GET", s.site+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if also != "" {
			r.Header.Set("X-API-Key", also)
		}
		plant(r)
		if strings.HasSuffix(path, "/hang") {
			time.AfterFunc(30*time.Millisecond, cancel)
		}
		resp, err := s.client.Do(r)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	for i, key := range keys {
		for name, plant := range planted(key) {
			for _, path := range []string{"/ping", "/open", "/app", "/admin", "/down", "/broken", "/moved/x", "/die", "/moved/die"} {
				if !filtered && strings.HasPrefix(path, "/moved") && (name == "path" || name == "other query" || name == "twice") {
					// Caddy itself logs the URL of a request that it rewrites and then proxies.
					// Only the filter can clean these lines.
					continue
				}
				if i > 1 && path != "/ping" && path != "/admin" && path != "/app" {
					continue
				}
				send(path, plant, "")
				if i < 2 {
					// The planted key must not be written either if the request passes with
					// another key.
					send(path, plant, good.full)
				}
			}
		}
	}
	for _, plant := range planted(good.full) {
		send("/hang", plant, good.full)
		send("/open/hang", plant, "")
	}
	for _, key := range keys {
		s.manage(t, "POST", "/v1/verify", record{"key": key, "method": "GET", "path": "/ping"})
		s.manage(t, "POST", "/v1/explain", record{"key": key, "method": "GET", "path": "/admin"})
	}
	// The configuration is reloaded in the middle of the test.
	s.command(t, "", "reload", "--config", s.config, "--adapter", "caddyfile", "--address", s.adminAddr).exits(0)
	send("/ping", planted(good.full)["query"], good.full)
	metrics, err := s.client.Get("http://" + s.adminAddr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(metrics.Body)
	metrics.Body.Close()
	if err != nil || !strings.Contains(string(text), "keygate_requests_total") {
		t.Fatalf("no metrics: %v", err)
	}
	for _, l := range leaks(string(text), keys) {
		t.Errorf("a metric: %s", l)
	}
	s.stop()

	log := s.log()
	if !strings.Contains(log, "upstream roundtrip") || !strings.Contains(log, "aborting with incomplete response") || !strings.Contains(log, "connection refused") {
		t.Error("the log lacks the lines that this test is about")
	}
	files, lines := 0, 0
	for _, root := range []string{s.dir, dir} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			files++
			lines += strings.Count(string(b), "handled request")
			seen := map[string]bool{}
			for _, l := range leaks(string(b), keys) {
				kind := l
				if i := strings.Index(l, `"msg"`); i >= 0 {
					kind = l[i:min(len(l), i+60)]
				} else if len(l) > 120 {
					kind = l[25:min(len(l), 80)]
				}
				if !seen[kind] {
					seen[kind] = true
					t.Errorf("%s: %s", path, l)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if files < 4 || lines < 500 {
		t.Errorf("only %d files with %d access lines", files, lines)
	}
	for _, f := range []string{accessLog, filepath.Join(s.dir, "config", "caddy", "autosave.json"), s.database} {
		if _, err := os.Stat(f); err != nil {
			t.Error(err)
		}
	}
}
