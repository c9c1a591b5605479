package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/api/apitest"
)

// managedConfig has two keyspaces, and the management API on the site at its root and under a
// path.
const managedConfig = `{
	admin {$KEYGATE_ADMIN}
	keygate {
		store sqlite {$KEYGATE_DB}
		keyspace shop {
			prefix shop_live_ live
			plan pro {
				rate 100/m
				credits
			}
		}
		keyspace other {
			plan pro
		}
	}
}
{$KEYGATE_LISTEN} {
	log
	keygate_api
	keygate_health /readyz
	handle_path /manage/* {
		keygate_api
	}
	handle {
		keygate shop
		reverse_proxy {$KEYGATE_UPSTREAM}
	}
}
`

// remote is a client of the management API on the site, with a token.
type remote struct {
	*gateway
	doc   *apitest.Document
	token string
}

func startManaged(t *testing.T) *remote {
	t.Helper()
	g := start(t, written(t, managedConfig), newUpstream(t))
	a := g.send(t, "GET", "/v1/openapi.json", "").want(http.StatusOK)
	doc, err := apitest.Parse([]byte(a.body))
	if err != nil {
		t.Fatal(err)
	}
	for _, slug := range []string{"acme", "b"} {
		g.api(t, "POST", "/v1/tenants?keyspace=shop", record{"slug": slug, "plan": "pro", "credits": 100}).want(http.StatusCreated)
	}
	return &remote{gateway: g, doc: doc}
}

// as returns the client with another token.
func (r *remote) as(token string) *remote {
	r.keep(token)
	return &remote{r.gateway, r.doc, token}
}

// grant creates a token with the CLI, and returns a client with the token and the token's id.
func (r *remote) grant(t *testing.T, args ...string) (*remote, string) {
	t.Helper()
	made := r.keygate(t, append([]string{"token", "create", "--json", "--keyspace", "shop", "--name", "t"}, args...)...).json()
	return r.as(made.text("token")), made.text("id")
}

// do sends a request with the token, and checks the response against the OpenAPI document.
func (r *remote) do(t *testing.T, method, target string, body any, header ...string) *answer {
	t.Helper()
	sent := ""
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		sent = string(b)
	}
	if r.token != "" {
		header = append(header, "Authorization", "Bearer "+r.token)
	}
	a := r.send(t, method, target, sent, header...)
	path, _, _ := strings.Cut(strings.TrimPrefix(target, "/manage"), "?")
	if err := r.doc.Check(method, path, a.status, a.header, []byte(a.body)); err != nil {
		t.Error(err)
	}
	if a.reached != nil {
		t.Errorf("%s reached the upstream", a.asked)
	}
	return a
}

func (r *remote) denied(t *testing.T, method, target string, body any, header ...string) {
	t.Helper()
	a := r.do(t, method, target, body, header...).want(http.StatusForbidden)
	a.problem("insufficient_scope")
}

// key creates a key, and returns its id and the full key.
func (r *remote) key(t *testing.T, tenant string) (id, full string) {
	t.Helper()
	k := r.do(t, "POST", "/v1/tenants/"+tenant+"/keys", record{"name": "k"}).want(http.StatusCreated).json()
	r.keep(k.text("key"))
	return k.text("id"), k.text("key")
}

func TestTokensOnTheSite(t *testing.T) {
	t.Parallel()
	r := startManaged(t)
	root, rootID := r.grant(t, "--scope", "*")

	t.Run("a token is needed", func(t *testing.T) {
		a := r.do(t, "GET", "/v1/tenants", nil).rejected(http.StatusUnauthorized)
		a.problem("missing_token")
		if c := a.header.Get("WWW-Authenticate"); strings.Contains(c, "error") {
			t.Errorf("nothing was sent, and the challenge is %q", c)
		}
		for _, bad := range []string{"kgm_x", "x", root.token + "0", strings.ToUpper(root.token)} {
			a := (&remote{r.gateway, r.doc, bad}).do(t, "GET", "/v1/nothing", nil).rejected(http.StatusUnauthorized)
			a.problem("invalid_token")
			if c := a.header.Get("WWW-Authenticate"); !strings.Contains(c, `error="invalid_token"`) {
				t.Errorf("the challenge is %q", c)
			}
		}
		r.do(t, "GET", "/v1/tenants", nil, "Authorization", "Basic YTpi").rejected(http.StatusUnauthorized)
		r.send(t, "GET", "/readyz", "").want(http.StatusOK)
	})

	t.Run("a key is no token, and a token no key", func(t *testing.T) {
		_, full := root.key(t, "acme")
		r.send(t, "GET", "/x", "", "Authorization", "Bearer "+full).passed()
		r.as(full).do(t, "GET", "/v1/tenants", nil).rejected(http.StatusUnauthorized)
		r.send(t, "GET", "/x", "", "Authorization", "Bearer "+root.token).rejected(http.StatusUnauthorized)
	})

	t.Run("under a path", func(t *testing.T) {
		root.do(t, "GET", "/manage/v1/tenants", nil).want(http.StatusOK)
		r.send(t, "GET", "/manage/v1/openapi.json", "").want(http.StatusOK)
	})

	t.Run("its keyspace only", func(t *testing.T) {
		root.do(t, "GET", "/v1/tenants?keyspace=shop", nil).want(http.StatusOK)
		root.do(t, "GET", "/v1/tenants?keyspace=other", nil).want(http.StatusNotFound)
		root.do(t, "POST", "/v1/tokens?keyspace=other", record{"name": "n", "scopes": []string{"*"}}).want(http.StatusNotFound)
		if s := root.do(t, "GET", "/v1/status", nil).want(http.StatusOK).json(); len(s.list("keyspaces")) != 1 {
			t.Errorf("the token's status shows the keyspaces %v", s["keyspaces"])
		}
	})

	t.Run("the audit log names the person that a token acts for", func(t *testing.T) {
		plain, plainID := r.grant(t, "--scope", "keys:write", "--scope", "audit:read")
		plain.denied(t, "POST", "/v1/tenants/acme/keys", record{"name": "k"}, "Keygate-Actor", "eve")
		plain.denied(t, "GET", "/v1/audit", nil, "Keygate-Actor-Ip", "192.0.2.1")
		acting, actingID := r.grant(t, "--scope", "keys:write", "--scope", "act")
		k := acting.do(t, "POST", "/v1/tenants/acme/keys", record{"name": "k"}, "Keygate-Actor", "Bj%C3%B6rk", "Keygate-Actor-Ip", "192.0.2.77").want(http.StatusCreated).json()
		r.keep(k.text("key"))
		if k["created_by"] != "Björk" {
			t.Errorf("created by %v", k["created_by"])
		}
		id, _ := plain.key(t, "acme")
		e := plain.do(t, "GET", "/v1/audit?key="+k.text("id"), nil).want(http.StatusOK).json().records("data")[0]
		if e["actor"] != "Björk" || e["ip"] != "192.0.2.77" || e["token"] != actingID || e["via"] != "api" {
			t.Errorf("the event of whom it acted for: %v", e)
		}
		e = plain.do(t, "GET", "/v1/audit?key="+id, nil).want(http.StatusOK).json().records("data")[0]
		if !strings.Contains(e.text("actor"), plainID) || e["ip"] != "127.0.0.1" || e["token"] != plainID {
			t.Errorf("the event of the token itself: %v", e)
		}
	})

	t.Run("a revoked or expired token is rejected at once", func(t *testing.T) {
		issuer, issuerID := r.grant(t, "--scope", "tokens:write", "--scope", "keys:read", "--expires", "1h")
		child := r.as(issuer.do(t, "POST", "/v1/tokens", record{"name": "c", "scopes": []string{"keys:read", "tokens:write"}}).want(http.StatusCreated).json().text("token"))
		grandchild := r.as(child.do(t, "POST", "/v1/tokens", record{"name": "g", "scopes": []string{"keys:read"}}).want(http.StatusCreated).json().text("token"))
		issuer.do(t, "POST", "/v1/tokens", record{"name": "c", "scopes": []string{"keys:write"}}).want(http.StatusUnprocessableEntity).problem("scope_not_allowed")
		for _, holder := range []*remote{issuer, child, grandchild} {
			holder.do(t, "GET", "/v1/keys", nil).want(http.StatusOK)
		}
		r.keygate(t, "token", "revoke", issuerID, "--keyspace", "shop").exits(0)
		for _, holder := range []*remote{issuer, child, grandchild} {
			holder.do(t, "GET", "/v1/keys", nil).rejected(http.StatusUnauthorized).problem("invalid_token")
		}
		short, _ := r.grant(t, "--scope", "keys:read", "--expires", "2s")
		testkit.Eventually(t, "the token has expired", func() bool { return short.do(t, "GET", "/v1/keys", nil).status == http.StatusUnauthorized })
	})

	t.Run("guesses", func(t *testing.T) {
		guess := product{prefix: "kgm_", random: 38, checksum: 6}
		limited := 0
		for range 130 {
			a := (&remote{r.gateway, r.doc, guess.unknown()}).do(t, "GET", "/v1/keys", nil)
			if a.status == http.StatusTooManyRequests {
				limited++
				a.rejected(http.StatusTooManyRequests).problem("too_many_failures")
			} else {
				a.rejected(http.StatusUnauthorized)
			}
		}
		if limited == 0 {
			t.Error("130 guesses were not limited")
		}
		// The guesses of others do not affect valid tokens from the same address, even at their
		// first use.
		root.do(t, "GET", "/v1/keys", nil).want(http.StatusOK)
		fresh, _ := r.grant(t, "--scope", "keys:read")
		fresh.do(t, "GET", "/v1/keys", nil).want(http.StatusOK)
	})

	t.Run("commands from another machine", func(t *testing.T) {
		remotely := func(args ...string) *result {
			file := filepath.Join(t.TempDir(), "token")
			if err := os.WriteFile(file, []byte(root.token+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			return r.command(t, "", append(append([]string{"keygate"}, args...), "--server", r.site, "--token-file", file)...)
		}
		made := remotely("token", "create", "--name", "far", "--scope", "keys:read", "--json").json()
		r.keep(made.text("token"))
		if made.text("created_by_token") != rootID {
			t.Errorf("created by %v", made["created_by_token"])
		}
		if out := remotely("token", "list").exits(0).out; !strings.Contains(out, made.text("id")) || strings.Contains(out, made.text("token")) {
			t.Errorf("the list:\n%s", out)
		}
		remotely("tenant", "list").exits(0)
		remotely("token", "revoke", made.text("id")).exits(0)
		remotely("token", "revoke", made.text("token")).exits(2)
		r.command(t, "", "keygate", "tenant", "list", "--server", r.site).exits(2)
		r.as(made.text("token")).do(t, "GET", "/v1/keys", nil).want(http.StatusUnauthorized)
	})

	t.Run("no token is kept or logged", func(t *testing.T) {
		for _, target := range []string{"/v1/keys/" + root.token, "/v1/keys?prefix=" + root.token, "/x/" + root.token + "?t=" + root.token} {
			root.send(t, "GET", target, "", "X-Other", root.token, "Referer", "https://x/?"+root.token, "Authorization", "Bearer "+root.token)
		}
		if strings.Contains(string(r.stored()), root.token) {
			t.Error("a full token is in the database")
		}
	}) // When the test ends, the log is searched for tokens.
}

// A token with read-only scopes can change nothing on any route of the OpenAPI document.
func TestStolenReadOnlyToken(t *testing.T) {
	t.Parallel()
	r := startManaged(t)
	root, _ := r.grant(t, "--scope", "*")
	id, _ := root.key(t, "acme")
	stolen, tokenID := r.grant(t, "--scope", "tenants:read", "--scope", "keys:read", "--scope", "usage:read",
		"--scope", "audit:read", "--scope", "webhooks:read", "--scope", "tokens:read")
	state := func() string {
		var all strings.Builder
		for _, path := range []string{"/v1/tenants", "/v1/keys", "/v1/tokens", "/v1/audit"} {
			for _, rec := range root.do(t, "GET", path+"?limit=100", nil).want(http.StatusOK).json().records("data") {
				delete(rec, "last_used_at")
				delete(rec, "last_used_ip")
				b, err := json.Marshal(rec)
				if err != nil {
					t.Fatal(err)
				}
				all.Write(b)
			}
		}
		return all.String()
	}
	var doc struct {
		Paths map[string]map[string]struct {
			Security []any `json:"security"`
		} `json:"paths"`
	}
	if err := json.Unmarshal([]byte(r.send(t, "GET", "/v1/openapi.json", "").body), &doc); err != nil {
		t.Fatal(err)
	}
	before, tried := state(), 0
	for template, methods := range doc.Paths {
		path := strings.NewReplacer("{slug}", "acme", "/keys/{id}", "/keys/"+id, "/tokens/{id}", "/tokens/"+tokenID, "{id}", "x").Replace(template)
		for method, op := range methods {
			// The audit chain covers all keyspaces, so its route does not exist for a token of one
			// keyspace.
			if method == "get" || len(op.Security) == 0 || path == "/v1/audit/verify" {
				continue
			}
			tried++
			for _, body := range []any{record{}, record{"name": "n", "scopes": []string{"*"}, "slug": "new", "add": 5, "url": "https://example.com"}} {
				stolen.denied(t, strings.ToUpper(method), path, body)
				stolen.denied(t, strings.ToUpper(method), path, body, "X-HTTP-Method-Override", "GET", "Idempotency-Key", "k")
			}
		}
	}
	if tried < 15 {
		t.Errorf("only %d routes that change something", tried)
	}
	if after := state(); after != before {
		t.Errorf("something changed:\n%s\n%s", before, after)
	}
}

// A token of one tenant sees nothing of another tenant by id, cursor, filter or audit log.
func TestTokenOfOneTenant(t *testing.T) {
	t.Parallel()
	r := startManaged(t)
	root, _ := r.grant(t, "--scope", "*")
	mine, _ := root.key(t, "acme")
	theirs, theirKey := root.key(t, "b")
	root.key(t, "b")
	acme, _ := r.grant(t, "--scope", "*", "--tenant", "acme")
	_, foreign := r.grant(t, "--scope", "*", "--tenant", "b")

	wantNotFound := func(method, path string, body any) {
		t.Helper()
		acme.do(t, method, path, body).want(http.StatusNotFound).problem("not_found")
	}
	wantNotFound("GET", "/v1/keys/"+theirs, nil)
	wantNotFound("PATCH", "/v1/keys/"+theirs, record{"name": "x"})
	wantNotFound("DELETE", "/v1/keys/"+theirs, nil)
	for _, verb := range []string{"rotate", "revoke", "disable", "enable"} {
		wantNotFound("POST", "/v1/keys/"+theirs+"/"+verb, record{})
	}
	wantNotFound("DELETE", "/v1/tokens/"+foreign, nil)
	wantNotFound("GET", "/v1/tenants/b", nil)
	wantNotFound("PATCH", "/v1/tenants/b", record{"name": "x"})
	wantNotFound("GET", "/v1/tenants/b/keys", nil)
	wantNotFound("POST", "/v1/tenants/b/keys", record{"name": "x"})
	wantNotFound("GET", "/v1/tenants/b/credits", nil)
	wantNotFound("POST", "/v1/tenants/b/credits", record{"add": 1})

	// Filters for the other tenant list nothing.
	for _, path := range []string{"/v1/keys?tenant=b", "/v1/audit?tenant=b", "/v1/audit?key=" + theirs, "/v1/tokens?tenant=b"} {
		if list := acme.do(t, "GET", path, nil).want(http.StatusOK).json().list("data"); len(list) != 0 {
			t.Errorf("%s: %v", path, list)
		}
	}
	for _, path := range []string{"/v1/keys", "/v1/audit", "/v1/tokens", "/v1/tenants"} {
		a := acme.do(t, "GET", path, nil).want(http.StatusOK)
		for _, hidden := range []string{theirs, foreign, `"b"`} {
			if strings.Contains(a.body, hidden) {
				t.Errorf("%s shows %s: %s", path, hidden, a.body)
			}
		}
	}
	// Cursors from lists of the other tenant are rejected or show nothing.
	for _, path := range []string{"/v1/keys?tenant=b", "/v1/tokens?x", "/v1/audit?tenant=b"} {
		path = strings.TrimSuffix(path, "?x")
		sep := "?"
		if strings.Contains(path, "?") {
			sep = "&"
		}
		cursor := root.do(t, "GET", path+sep+"limit=1", nil).want(http.StatusOK).json().text("next_cursor")
		own, _, _ := strings.Cut(path, "?")
		a := acme.do(t, "GET", own+"?cursor="+cursor, nil)
		if a.status != http.StatusUnprocessableEntity && (a.status != http.StatusOK || strings.Contains(a.body, theirs) || strings.Contains(a.body, foreign)) {
			t.Errorf("a cursor of %s: %d %s", path, a.status, a.body)
		}
	}
	// The key of the other tenant counts as unknown.
	for _, path := range []string{"/v1/verify", "/v1/explain"} {
		if v := acme.do(t, "POST", path, record{"key": theirKey}).want(http.StatusOK).json(); v["reason"] != "invalid_key" || v["tenant"] != "" {
			t.Errorf("%s: %v", path, v)
		}
	}

	// The token may change only some fields of its own tenant.
	acme.do(t, "PATCH", "/v1/tenants/acme", record{"name": "Acme!", "metadata": record{"a": 1}}).want(http.StatusOK)
	for _, body := range []record{{"plan": "none"}, {"active": false}, {"credits": 1000}, {"rate": "9/s"}, {"quota": "9/day"}, {"concurrency": 9}} {
		if a := acme.do(t, "PATCH", "/v1/tenants/acme", body); a.status != http.StatusForbidden && a.status != http.StatusUnprocessableEntity {
			t.Errorf("%v: %d %s", body, a.status, a.body)
		}
	}
	acme.denied(t, "POST", "/v1/tenants", record{"slug": "b"})
	acme.denied(t, "POST", "/v1/tenants", record{"slug": "new"})
	acme.denied(t, "DELETE", "/v1/tenants/acme?force=true", nil)
	acme.denied(t, "POST", "/v1/tenants/acme/credits", record{"add": 5})
	acme.do(t, "PATCH", "/v1/keys/"+mine, record{"rate": "10/m"}).want(http.StatusOK)
	acme.do(t, "PATCH", "/v1/keys/"+mine, record{"rate": "5/m"}).want(http.StatusOK)
	acme.denied(t, "PATCH", "/v1/keys/"+mine, record{"rate": "11/m"})
	acme.denied(t, "PATCH", "/v1/keys/"+mine, record{"rate": nil})
	if c := root.do(t, "GET", "/v1/tenants/acme", nil).want(http.StatusOK).json(); c["credits"] != 100.0 || c["plan"] != "pro" || c["active"] != true {
		t.Errorf("the tenant afterwards: %v", c)
	}
}

// A POST with an idempotency key is carried out once, and its replay works even after the process
// was killed.
func TestIdempotency(t *testing.T) {
	t.Parallel()
	r := startManaged(t)
	root, _ := r.grant(t, "--scope", "*")
	create := func(holder *remote, body record) *answer {
		return holder.do(t, "POST", "/v1/tenants/acme/keys", body, "Idempotency-Key", "create-1")
	}
	first := create(root, record{"name": "k"}).want(http.StatusCreated)
	r.keep(first.json().text("key"))
	again := create(root, record{"name": "k"}).want(http.StatusCreated)
	check := func(again *answer) {
		t.Helper()
		k := again.json()
		if again.header.Get("Idempotent-Replayed") != "true" || k["id"] != first.json()["id"] || k["key"] != nil || k["curl"] != nil ||
			k["code"] != "secret_already_shown" || strings.Contains(again.body, first.json().text("key")) {
			t.Errorf("the replay: %v %s", again.header, again.body)
		}
	}
	check(again)
	create(root, record{"name": "other"}).want(http.StatusUnprocessableEntity).problem("idempotency_key_reused")
	if strings.Contains(string(r.stored()), first.json().text("key")) {
		t.Error("the full key is in the database")
	}
	// The same idempotency key with another token is another request.
	other, _ := r.grant(t, "--scope", "*")
	r.keep(create(other, record{"name": "k"}).want(http.StatusCreated).json().text("key"))
	// Idempotency keys work on the admin endpoint too.
	for _, replayed := range []string{"", "true"} {
		a := r.api(t, "POST", "/v1/tenants/acme/credits?keyspace=shop", record{"add": 5}, "Idempotency-Key", "c").want(http.StatusOK)
		if a.header.Get("Idempotent-Replayed") != replayed || a.json()["balance"] != 105.0 {
			t.Errorf("credits: %v %s", a.header, a.body)
		}
	}
	r.gateway.kill()
	r.gateway.start()
	check(create(root, record{"name": "k"}).want(http.StatusCreated))
	if list := root.do(t, "GET", "/v1/keys", nil).want(http.StatusOK).json().list("data"); len(list) != 2 {
		t.Errorf("there are %d keys, want 2", len(list))
	}
}
