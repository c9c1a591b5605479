package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// aliases is a Caddy option that lets header names with _ and . through. By default, Caddy drops them.
const aliases = `servers {
		protocols h1 h2c
		expected_underscore_headers X_*
		expected_dot_headers X.*
	}`

// forgedHeaders returns context headers, the headers that state tenant and key to the upstream, in many
// spellings. A client might send them to pretend to be another tenant or key.
func forgedHeaders() (header []string) {
	for _, family := range []string{"tenant", "key"} {
		for _, name := range []string{"id", "plan", "name", "scopes", "environment", "anything"} {
			for _, sep := range []string{"-", "_", ".", "!", "~", "'", "|"} {
				n := "x" + sep + family + sep + name
				header = append(header, n, "evil", strings.ToUpper(n), "evil", http.CanonicalHeaderKey(n), "evil")
			}
			header = append(header, "X-"+family+"_"+name, "evil", "x_"+family+"-"+name, "evil", "X."+family+"-"+name, "evil", "X-Tenant-", "evil", "x_key_", "evil")
		}
	}
	return header
}

// lines returns header fields in the form in which an HTTP/1 request contains them.
func lines(header []string) string {
	var b strings.Builder
	for i := 0; i+1 < len(header); i += 2 {
		fmt.Fprintf(&b, "%s: %s\r\n", header[i], header[i+1])
	}
	return b.String()
}

// clean checks that the upstream received none of the forged headers. The upstream must have received the
// context headers of tenant exactly once. If tenant is "", it must have received none.
func (a *answer) clean(tenant string) *answer {
	a.t.Helper()
	if a.reached == nil {
		a.t.Fatalf("%s: %d %s: the upstream was not asked", a.asked, a.status, a.body)
	}
	for _, h := range []http.Header{a.reached.header, a.reached.trailer} {
		for name, values := range h {
			if strings.Contains(strings.Join(values, " "), "evil") {
				a.t.Errorf("%s: the upstream saw %s: %q", a.asked, name, values)
			}
		}
	}
	got := a.reached.header
	if tenant == "" {
		for name := range got {
			if strings.HasPrefix(name, "X-Tenant") || strings.HasPrefix(name, "X-Key") {
				a.t.Errorf("%s: %s: %q without a key", a.asked, name, got[name])
			}
		}
		return a
	}
	for _, name := range []string{"X-Tenant-Id", "X-Tenant-Plan", "X-Key-Id", "X-Key-Name", "X-Key-Scopes", "X-Key-Environment"} {
		if v := got[name]; len(v) != 1 || v[0] == "" {
			a.t.Errorf("%s: %s is %q", a.asked, name, v)
		}
	}
	if got.Get("X-Tenant-Id") != tenant {
		a.t.Errorf("%s: the tenant is %q, want %q", a.asked, got["X-Tenant-Id"], tenant)
	}
	return a
}

func TestClientsCannotForgeContext(t *testing.T) {
	t.Parallel()
	t.Run("with Caddy's defaults", func(t *testing.T) {
		t.Parallel()
		checkForgedHeaders(t, "servers {\n protocols h1 h2c\n}")
	})
	t.Run("with _ and . let through", func(t *testing.T) {
		t.Parallel()
		checkForgedHeaders(t, aliases)
	})
}

func checkForgedHeaders(t *testing.T, global string) {
	s := startTestSite(t, global, "", `@checked not path /outside /outside/*
	rewrite /moved /rewritten
	keygate @checked {
		public /public
		optional /optional
	}
	handle_path /stripped/* {
		keygate {
			public /inner
		}
		reverse_proxy {$KEYGATE_UPSTREAM}
	}
	handle /twice {
		route {
			keygate
			reverse_proxy {$KEYGATE_UPSTREAM}
		}
	}
	reverse_proxy {$KEYGATE_UPSTREAM}`)
	s.tenant(t, "acme", nil)
	k := s.key(t, "acme", nil)
	h2 := http2Client(t)

	paths := map[string]bool{
		"/public": false, "/outside": false, "/outside/x": false, "/optional": false,
		"/ping": true, "/moved": true, "/stripped/inner": true, "/stripped/x": true, "/twice": true,
	}
	for path, needed := range paths {
		for _, withKey := range []bool{true, false} {
			if needed && !withKey {
				s.call(t, "GET", path, "", forgedHeaders()...).rejected(401)
				continue
			}
			tenant := ""
			header := forgedHeaders()
			if withKey && (needed || path == "/optional") {
				tenant = "acme"
			}
			if withKey && path != "/outside" && path != "/outside/x" {
				header = append(header, "Authorization", "Bearer "+k.full)
			}
			a := s.send(t, "POST", path, "body", header...).clean(tenant)
			if tenant != "" && a.reached.header.Get("Authorization") != "" {
				t.Errorf("%s: the key was forwarded", path)
			}
			s.raw(t, "POST "+path+" HTTP/1.1\r\nHost: $HOST\r\n$TAG\r\nContent-Length: 0\r\nConnection: close\r\n"+lines(header)+"\r\n").clean(tenant)
		}
	}

	t.Run("names in Connection", func(t *testing.T) {
		for _, connection := range []string{
			"X-Tenant-Id", "x-tenant-id,x-key-id", "close, X-Tenant-Id", "X-Tenant-Id\r\nConnection: X-Key-Id\r\nconnection: x-KEY-scopes , X-Tenant-Plan",
			" ,\t, X-Tenant-Id\t ,,", "keep-alive,X-Key-Name,X-Key-Environment,X-Tenant-Plan", "\tX-Tenant-Id", "X-Tenant-Id, Upgrade",
			"X_Tenant_Id, X.Key.Id, X-Tenant-Id",
		} {
			s.raw(t, "GET /ping HTTP/1.1\r\nHost: $HOST\r\n$TAG\r\nAuthorization: Bearer "+k.full+"\r\nConnection: "+connection+"\r\n\r\n").passed().clean("acme")
		}
		// Other names in Connection, and other headers, are treated as usual.
		a := s.send(t, "GET", "/ping", "", "Authorization", "Bearer "+k.full, "Connection", "Own", "Own", "1", "Other", "2").passed()
		if a.reached.header.Get("Own") != "" || a.reached.header.Get("Other") != "2" {
			t.Errorf("the upstream saw %v", a.reached.header)
		}
	})

	t.Run("trailers", func(t *testing.T) {
		for _, announced := range []string{"", "Trailer: X-Tenant-Id\r\n", "Trailer: Checksum, x-key-id\r\n", "Trailer: X_Tenant_Id, Checksum\r\nTE: trailers\r\n"} {
			for _, path := range []string{"/ping", "/public", "/outside", "/stripped/x"} {
				override := "X-HTTP-Method-Override: evil\r\n"
				if path == "/outside" {
					override = "" // The gateway does not handle this request's path, so the gateway would not remove the header.
				}
				a := s.raw(t, "POST "+path+" HTTP/1.1\r\nHost: $HOST\r\n$TAG\r\n"+announced+"Authorization: Bearer "+k.full+
					"\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n0\r\nX-Tenant-Id: evil\r\nx-key-id: evil\r\nX_Tenant_Id: evil\r\n"+override+"Checksum: 12\r\n\r\n")
				tenant := "acme"
				if path == "/public" || path == "/outside" {
					tenant = ""
				}
				a.clean(tenant)
				if a.reached.text() != "hello" {
					t.Errorf("%s: the body is %q", path, a.reached.text())
				}
				if got := a.reached.trailer.Get("Checksum"); strings.Contains(announced, "Checksum") && got != "12" {
					t.Errorf("%s: the trailer is %q", path, a.reached.trailer)
				}
			}
		}
		for _, client := range []*http.Client{s.client, h2} {
			r, tag := s.request(t, "POST", "/ping", "", "Authorization", "Bearer "+k.full)
			in, out := io.Pipe()
			r.Body, r.ContentLength = in, -1
			r.Trailer = http.Header{"X-Tenant-Id": nil, "Checksum": nil}
			go func() {
				io.WriteString(out, "hello")
				r.Trailer.Set("X-Tenant-Id", "evil")
				r.Trailer.Set("Checksum", "12")
				out.Close()
			}()
			resp, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			if a := s.gateway.read(t, resp, tag).clean("acme"); a.reached.trailer.Get("Checksum") != "12" {
				t.Errorf("%s: the trailers are %v", resp.Proto, a.reached.trailer)
			}
		}
	})

	t.Run("over HTTP/2", func(t *testing.T) {
		for path, needed := range paths {
			r, tag := s.request(t, "GET", path, "", append(forgedHeaders(), "Authorization", "Bearer "+k.full)...)
			resp, err := h2.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			tenant := ""
			if needed || path == "/optional" {
				tenant = "acme"
			}
			s.gateway.read(t, resp, tag).clean(tenant)
		}
	})

	t.Run("preflight", func(t *testing.T) {
		s.send(t, "OPTIONS", "/ping", "", append(forgedHeaders(), "Origin", "https://app.example", "Access-Control-Request-Method", "POST")...).clean("")
	})

	t.Run("headers that override the path or the method", func(t *testing.T) {
		overrides := []string{
			"X-Original-URL", "x-rewrite-url", "X_Original_URL", "X.Rewrite.URL", "X-HTTP-Method-Override", "x-http-method", "X_HTTP_METHOD_OVERRIDE",
			"X-Method-Override", "X-Original-URI", "X-Forwarded-Uri", "X-Forwarded-Method",
			"X-Script-Name", "x_script_name", "X-WAWS-Unencoded-URL", "X-Envoy-Original-Path", "X-Original-Method",
		}
		for _, path := range []string{"/ping", "/public", "/optional"} {
			header := []string{"Authorization", "Bearer " + k.full}
			for _, name := range overrides {
				header = append(header, name, "evil")
			}
			tenant := "acme"
			if path == "/public" {
				tenant = ""
			}
			s.send(t, "POST", path, "", header...).clean(tenant)
		}
	})
}

func TestKeepOverrides(t *testing.T) {
	t.Parallel()
	s := startTestSite(t, "", "", `keygate {
		keep_overrides
		forward_credential
	}
	reverse_proxy {$KEYGATE_UPSTREAM}`)
	s.tenant(t, "acme", nil)
	k := s.key(t, "acme", nil)
	a := s.send(t, "POST", "/ping?a=1", "", append(forgedHeaders(), "Authorization", "Bearer "+k.full, "X-API-Key", k.full, "X-HTTP-Method-Override", "PUT", "X-Original-URL", "/x")...).clean("acme")
	for name, want := range map[string]string{"X-Http-Method-Override": "PUT", "X-Original-Url": "/x", "Authorization": "Bearer " + k.full, "X-Api-Key": k.full} {
		if got := a.reached.header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

func TestKeysAreNotForwarded(t *testing.T) {
	t.Parallel()
	errorSite := `handle_errors {
		rewrite * /error?{query}
		reverse_proxy {$KEYGATE_UPSTREAM} {
			header_up X-Was {http.request.orig_uri}
		}
	}
	`
	s := startTestSite(t, "", `credentials {
				authorization Bearer
				header X-API-Key
				header Api-Token
				query api_key
				cookie session_key
			}
			plan tiny {
				rate 1/d
			}`, `keygate {
		optional /app /app/*
		public /open
		scope /admin read
		cors https://app.example
	}
	handle /down {
		reverse_proxy 127.0.0.1:1
	}
	handle_path /gone/* {
		rewrite * /x?{query}
		reverse_proxy 127.0.0.1:1
	}
	reverse_proxy {$KEYGATE_UPSTREAM} {
		header_up X-Was {http.request.orig_uri}
	}
	`+errorSite)
	s.tenant(t, "acme", nil)
	s.tenant(t, "small", record{"plan": "tiny"})
	k, spent := s.key(t, "acme", nil), s.key(t, "small", nil)
	s.call(t, "GET", "/ping", spent.full).passed()
	revoked := s.key(t, "acme", nil)
	s.post(t, revoked, "revoke", nil)
	escaped := func(key string) string {
		var b strings.Builder
		for i := range len(key) {
			fmt.Fprintf(&b, "%%%02x", key[i])
		}
		return b.String()
	}
	// hidden checks that the request which the upstream received does not contain the key.
	hidden := func(t *testing.T, a *answer, key string) {
		t.Helper()
		if a.reached == nil {
			t.Fatalf("%s: %d %s: nothing reached the upstream", a.asked, a.status, a.body)
		}
		all := a.reached.uri + fmt.Sprint(a.reached.header)
		if strings.Contains(all, key[12:]) || strings.Contains(all, escaped(key)) {
			t.Errorf("%s: the upstream saw the key: %s", a.asked, all)
		}
	}
	places := map[string]func(key string) (query string, header []string){
		"Bearer":          func(key string) (string, []string) { return "", []string{"Authorization", "Bearer " + key} },
		"bearer, spaces":  func(key string) (string, []string) { return "", []string{"Authorization", "bearer   " + key} },
		"X-API-Key":       func(key string) (string, []string) { return "", []string{"X-API-Key", key} },
		"x-api-key twice": func(key string) (string, []string) { return "", []string{"x-api-key", key, "X-API-Key", key} },
		"Api-Token":       func(key string) (string, []string) { return "", []string{"api-token", key} },
		"query":           func(key string) (string, []string) { return "api_key=" + key, nil },
		"query, escaped":  func(key string) (string, []string) { return "%61pi%5fkey=" + escaped(key), nil },
		"query twice":     func(key string) (string, []string) { return "api_key=" + key + "&api%5Fkey=" + key, nil },
		"cookie":          func(key string) (string, []string) { return "", []string{"Cookie", "session_key=" + key} },
		"quoted cookie":   func(key string) (string, []string) { return "", []string{"Cookie", `session_key="` + key + `"`} },
		"everywhere": func(key string) (string, []string) {
			return "api_key=" + key, []string{"Authorization", "Bearer " + key, "X-API-Key", key, "Api-Token", key, "Cookie", "session_key=" + key}
		},
	}
	for name, place := range places {
		t.Run(name, func(t *testing.T) {
			own := []string{"Cookie", "theme=dark; other=\"x y\"", "Accept", "a/b;q=0.5,  c/d"}
			query, header := place(k.full)
			a := s.send(t, "GET", "/ping?x=%2F+1&&y&"+query, "", append(header, own...)...).passed()
			hidden(t, a, k.full)
			if want := "/ping?x=%2F+1&&y"; a.reached.uri != want && a.reached.uri != want+"&" {
				t.Errorf("the upstream's target is %s", a.reached.uri)
			}
			if c := strings.Join(a.reached.header["Cookie"], "; "); c != own[1] || a.reached.header.Get("Accept") != own[3] || a.reached.header["Authorization"] != nil {
				t.Errorf("the upstream saw %v", a.reached.header)
			}
			hidden(t, s.send(t, "GET", "/open?"+query, "", header...).want(200), k.full)
			hidden(t, s.send(t, "GET", "/app?"+query, "", header...).want(200).clean("acme"), k.full)
			// On the paths /down and /gone/x the proxy fails, and an error route forwards the request to an upstream.
			for _, path := range []string{"/down", "/gone/x"} {
				hidden(t, s.send(t, "GET", path+"?"+query, "", header...), k.full)
			}
			for _, bad := range []key{spent, revoked} {
				query, header := place(bad.full)
				hidden(t, s.send(t, "GET", "/ping?"+query, "", header...), bad.full)
			}
			hidden(t, s.send(t, "OPTIONS", "/ping?"+query, "", append(header, "Origin", "https://app.example", "Access-Control-Request-Method", "GET")...), k.full)
		})
	}

	t.Run("keys in unexpected forms", func(t *testing.T) {
		for _, auth := range []string{k.full, "Token " + k.full, "Bearer" + k.full, "Bearer: " + k.full, `Bearer "` + k.full + `"`, "Basic " + k.full, "Bearer Bearer " + k.full} {
			a := s.send(t, "GET", "/ping", "", "X-API-Key", k.full, "Authorization", auth)
			if a.reached != nil && a.status == 200 {
				a.clean("acme")
			}
			hidden(t, a, k.full)
			hidden(t, s.send(t, "GET", "/app", "", "Authorization", auth), k.full)
			hidden(t, s.send(t, "GET", "/open", "", "Authorization", auth), k.full)
		}
		for _, header := range []string{"X-API-Key", "Api-Token"} {
			hidden(t, s.send(t, "GET", "/app", "", header, "Bearer "+k.full), k.full)
			hidden(t, s.send(t, "GET", "/open", "", header, "own, "+k.full), k.full)
		}
		hidden(t, s.send(t, "GET", "/app?api_key=Bearer+"+k.full, ""), k.full)
		hidden(t, s.send(t, "GET", "/app", "", "Cookie", "a=b; session_key= "+k.full), k.full)
	})
}
