package e2e

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/e2e/browser"
)

// The console's tests.
//
// 	console_test.go           a gateway with a console, and sessions there
// 	console_key_test.go       keys, from the empty list to a deleted key
// 	console_operator_test.go  other pages for operators: tenants, plans, webhooks, tokens, audit
// 	console_portal_test.go    a tenant's own people
// 	console_pages_test.go     every page, in every view
// 	console_attack_test.go    attacks by other sites, by raw requests and by URLs
// 	console_http_test.go      the same console without a browser
// 	console_screenshots_test.go  the manual's pictures, with the tag screenshots

// consoleConfig is a configuration that has the console on another site than the API.
const consoleConfig = `{
	admin {$KEYGATE_ADMIN}
	keygate {
		store sqlite {$KEYGATE_DB}
		secret {env.KEYGATE_SECRET}
		prefix kg_live_ live
		prefix kg_test_ test
		scopes admin > deployment > free
		plan free {
			rate 60/m
			max_keys 3
			scopes free
		}
		plan pro {
			rate 300/m burst 60
			quota 100000/month
			concurrency 50
			scopes deployment
		}
		plan business {
			rate 20/s per tenant
			credits
			scopes admin
		}
		plan none {
			deny
		}
		default_plan free
		webhooks {
			allow_private 127.0.0.0/8
		}
	}
}
{$KEYGATE_LISTEN} {
	keygate {
		public /health
		scope POST /v1/deploy* deployment
		cost POST /v1/generate* 5
	}
	reverse_proxy {$KEYGATE_UPSTREAM}
}
{$KEYGATE_CONSOLE} {
	log
	encode
	keygate_api
	keygate_console
}
`

// consoleSite is a gateway with a console.
type consoleSite struct {
	*site
	// url is the URL of the console.
	url string
	// token is the token of an operator with all scopes, and tokenID is its id.
	token, tokenID string
}

// startConsole starts a gateway with a console. Its store contains only the operator's token.
func startConsole(t testing.TB) *consoleSite {
	t.Helper()
	return startConsoleOn(t, consoleConfig)
}

func startConsoleOn(t testing.TB, config string) *consoleSite {
	t.Helper()
	url := "http://127.0.0.1:" + freePort(t)
	g := start(t, written(t, config), newUpstream(t), "KEYGATE_CONSOLE="+url, "KEYGATE_SECRET=a secret of enough bytes")
	d := &consoleSite{site: &site{gateway: g, product: example}, url: url}
	d.token, d.tokenID = d.grant(t, "*")
	return d
}

// grant creates a management token.
func (d *consoleSite) grant(t testing.TB, scopes ...string) (token, id string) {
	t.Helper()
	r := d.manage(t, "POST", "/v1/tokens", record{"name": "ops", "scopes": scopes}).want(http.StatusCreated).json()
	d.keep(r.text("token"))
	return r.text("token"), r.text("id")
}

// open opens a tab in which no person is signed in.
func (d *consoleSite) open(t testing.TB, v browser.View) *browser.Tab {
	t.Helper()
	return browser.New(t, d.url, v)
}

// operator opens a tab in which an operator is signed in.
func (d *consoleSite) operator(t testing.TB, v browser.View) *browser.Tab {
	t.Helper()
	tab := d.open(t, v)
	tab.Go("/sign-in")
	tab.Fill("label=Management token", d.token)
	tab.Fill("label=Your name", "Ada Operator")
	tab.Follow("button=Sign in")
	tab.Forbid(d.token)
	return tab
}

// link creates a portal link of a tenant.
func (d *consoleSite) link(t testing.TB, tenant string, fields record) string {
	t.Helper()
	body := record{"actor": "Tess Tenant", "role": "editor"}
	for name, v := range fields {
		body[name] = v
	}
	return d.manage(t, "POST", "/v1/tenants/"+tenant+"/portal", body).want(http.StatusCreated).json().text("url")
}

// person opens a tab in which a tenant's person is signed in by a portal link.
func (d *consoleSite) person(t testing.TB, v browser.View, tenant string, fields record) *browser.Tab {
	t.Helper()
	tab := d.open(t, v)
	link := d.link(t, tenant, fields)
	if v.NoScript {
		tab.Go("/portal")
		tab.Fill("label=Link", link)
		tab.Follow("button=Continue")
	} else {
		tab.Enter(link, "button=Sign out")
	}
	_, secret, ok := strings.Cut(link, "#")
	if !ok || secret == "" {
		t.Fatalf("the link has no fragment")
	}
	d.keep(secret)
	return tab
}

// shownKey returns the full key that the page shows.
func (d *consoleSite) shownKey(t testing.TB, tab *browser.Tab) string {
	t.Helper()
	full := tab.Text("#secret")
	d.keep(full)
	return full
}

// fetch sends a request to the console without a browser, and follows no redirects. header holds
// names and values in turn.
func (d *consoleSite) fetch(t testing.TB, method, path, body string, header ...string) *answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, d.url+path, bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
			continue
		}
		r.Header.Add(header[i], header[i+1])
	}
	resp, err := d.client.Do(r)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return d.read(t, resp)
}

func (d *consoleSite) read(t testing.TB, resp *http.Response) *answer {
	t.Helper()
	a := d.gateway.read(t, resp, "")
	a.reached = nil
	return a
}

// fill creates tenants on several plans, keys in every state, and traffic.
func (d *consoleSite) fill(t testing.TB) (keys map[string]key) {
	t.Helper()
	d.tenant(t, "acme", record{"name": "Acme Rockets", "plan": "pro"})
	d.tenant(t, "globex", record{"name": "Globex", "plan": "business", "credits": 500})
	d.tenant(t, "initech", record{"name": "Initech", "plan": "free"})
	keys = map[string]key{
		"deploy": d.key(t, "acme", record{"name": "Deploy from CI", "scopes": []string{"deployment"}, "expires_at": time.Now().Add(90 * 24 * time.Hour).UTC().Format(time.RFC3339)}),
		"site":   d.key(t, "acme", record{"name": "Website", "scopes": []string{"free"}, "rate": "20/m", "description": "Reads the catalogue for the public site."}),
		"old":    d.key(t, "acme", record{"name": "Old laptop"}),
		"batch":  d.key(t, "globex", record{"name": "Nightly batch", "scopes": []string{"admin"}, "allowed_ips": []string{"127.0.0.0/8", "::1"}}),
		"gone":   d.key(t, "globex", record{"name": "Contractor"}),
		"trial":  d.key(t, "initech", record{"name": "Trial", "environment": "test"}),
	}
	d.post(t, keys["gone"], "revoke", nil)
	for range 25 {
		d.call(t, "GET", "/v1/items", keys["site"].full)
	}
	for range 12 {
		d.call(t, "POST", "/v1/generate/text", keys["batch"].full)
	}
	for range 3 {
		d.call(t, "POST", "/v1/deploy", keys["site"].full)
	}
	d.post(t, keys["old"], "disable", nil)
	d.call(t, "GET", "/v1/items", keys["old"].full)
	d.call(t, "GET", "/v1/items", keys["trial"].full)
	d.call(t, "POST", "/v1/deploy", keys["deploy"].full)
	return keys
}
