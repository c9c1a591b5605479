package main

import (
	"os"
	"path/filepath"
	"time"
)

// replayConfig is a configuration that requests are replayed with.
type replayConfig struct {
	name, text string
	products   []product
}

// product is a keyspace, with the paths that its clients request.
type product struct {
	keyspace string
	// under is put before each path.
	under string
	hosts []string
	// plan is the plan of most tenants; credits reports whether the plan charges credits.
	plan    string
	credits bool
	// basic is the plan of one further tenant; "" for none.
	basic string
	// scopes are the scopes of the strongest key, and weaker those of the weaker key. Both are nil if the keyspace has no scopes.
	scopes, weaker []string
	header         bool // header reports whether clients send the key in X-API-Key instead of Authorization.
	paths          []string
}

var (
	convilyn = product{keyspace: "convilyn", plan: "business", credits: true, basic: "free",
		paths: []string{"/api/v1/workflows/w1", "/api/v1/workflows", "/api/v1/workflows/w 1/run", "/api/v1/credits", "/v2/import", "/"}}
	convoy = product{keyspace: "convoy", plan: "standard", header: true,
		paths: []string{"/cargo/load", "/cargo/17/tracking", "/cargo/load/more", "/cargo", "/health", "/docs/index.html", "/"}}
	vilvik = product{keyspace: "vilvik", plan: "premium", basic: "free", scopes: []string{"read", "write", "admin"}, weaker: []string{"read"},
		paths: []string{"/v1/admin/users", "/v1/admin", "/v1/administrators", "/v1/orders/7", "/v1/orders", "/"}}
	converra = product{keyspace: "converra", plan: "enterprise", basic: "free",
		paths: []string{"/v1/convert", "/v1/jobs/j1", "/v1/files/a+b.pdf", "/v1/files/~user/x", "/"}}
	knouds = product{keyspace: "knouds", plan: "business", basic: "free", scopes: []string{"admin"}, weaker: []string{"free"}, header: true,
		paths: []string{"/api/workflows/7/run", "/api/workflows", "/api/workflows/7", "/api/users", "/api", "/app.js", "/"}}
	example = product{keyspace: "default", plan: "prepaid", credits: true, basic: "free", scopes: []string{"admin"}, weaker: []string{"read"}, header: true,
		paths: []string{"/health", "/readyz", "/admin", "/admin/users", "/v1/generate/image", "/v1/things", "/v1/things/7", "/"}}
	rich = product{keyspace: "default", plan: "prepaid", credits: true, basic: "none", scopes: []string{"admin"}, weaker: []string{"read"}, header: true,
		hosts: []string{"rich.example.com", "rich.example.com", "rich.example.com", matchedHost, "plain.example.com"},
		paths: []string{"/health", "/docs/start", "/docs", "/app/index.html", "/app/app.js", "/app/admin/users", "/v1/generate/image", "/v1/items/7",
			"/v1/items", "/v1/reports/2026", "/ws", "/open/a", "/m/items", "/m/items/7", "/"}}
)

// matchedHost is the host name of the site in richText whose keygate directive has a matcher.
const matchedHost = "matched.example.com"

// richText is a configuration that combines many options of the directive.
const richText = `{
	admin {$KEYGATE_ADMIN}
	keygate {
		store sqlite {$KEYGATE_DB}
		prefix kg_live_ live
		prefix kg_test_ test
		credentials {
			authorization Bearer
			header X-API-Key
			query api_key
			cookie session_key
		}
		scopes admin > write > read
		failures 5/h
		plan prepaid {
			rate 100000/s
			quota 100000000/month
			credits
		}
		plan none {
			deny
		}
		default_plan prepaid
		errors problem {
			message missing_key "A key is needed."
			status credits_exhausted 429
		}
	}
}
http://rich.example.com:{$KEYGATE_PORT} {
	header X-Site rich
	encode gzip
	keygate {
		public /health /docs/* /app/app.js
		optional /app/*
		protect /app/admin/*
		scope DELETE * admin
		scope GET,HEAD * read
		scope * write
		cost POST /v1/generate/* 5 {
			refund 5xx
			actual X-Credits-Used
		}
		cost /v1/reports/* 2
		cors https://app.example.com https://admin.example.com
	}
	reverse_proxy {$KEYGATE_UPSTREAM}
	handle_errors 403 {
		respond "forbidden here" 403
	}
	handle_errors 402 {
		redir https://app.example.com/pay
	}
}
http://matched.example.com:{$KEYGATE_PORT} {
	@items {
		path /m/* /v1/*
		method GET POST HEAD
	}
	keygate @items
	reverse_proxy {$KEYGATE_UPSTREAM}
}
http://plain.example.com:{$KEYGATE_PORT} {
	keygate {
		observe
	}
	reverse_proxy {$KEYGATE_UPSTREAM}
}
`

// replayConfigs returns the configurations: the shipped files of the last release, which its users
// still have, and one that combines many options.
func replayConfigs(dir string) ([]replayConfig, error) {
	var five []product
	for _, p := range []product{convilyn, convoy, vilvik, converra, knouds} {
		p.under = "/" + p.keyspace
		five = append(five, p)
	}
	configs := []replayConfig{
		{"configs/convilyn.Caddyfile", "", []product{convilyn}}, {"configs/convoy.Caddyfile", "", []product{convoy}},
		{"configs/vilvik.Caddyfile", "", []product{vilvik}}, {"configs/converra.Caddyfile", "", []product{converra}},
		{"configs/knouds.Caddyfile", "", []product{knouds}}, {"configs/all-five.Caddyfile", "", five},
		{"Caddyfile.example", "", []product{example}}, {"rich", richText, []product{rich}},
	}
	for i, c := range configs {
		if c.text == "" {
			text, err := os.ReadFile(filepath.Join(dir, c.name))
			if err != nil {
				return nil, err
			}
			configs[i].text = string(text)
		}
	}
	return configs, nil
}

// tenants returns the tenants' fields by slug.
func (p product) tenants() map[string]map[string]any {
	high := func(plan string, credits bool) map[string]any {
		t := map[string]any{"plan": plan, "rate": "100000/s"}
		if credits {
			t["credits"] = 1_000_000_000
		}
		return t
	}
	tenants := map[string]map[string]any{"acme": high(p.plan, p.credits), "suspended": high(p.plan, p.credits), "limited": high(p.plan, p.credits)}
	tenants["limited"]["rate"], tenants["limited"]["quota"] = "4/12h", "9/month"
	if p.credits {
		tenants["poor"] = high(p.plan, false)
		tenants["poor"]["credits"] = 6
	}
	if p.basic != "" {
		tenants["basic"] = high(p.basic, false)
	}
	return tenants
}

// replayKey is a key to create.
type replayKey struct {
	name, tenant string
	fields       map[string]any
	then         string // then is the call that follows the creation of the key: revoke, disable, delete or rotate; "" for none.
}

// keys returns the keys to create. One of them expires at soon.
func (p product) keys(soon time.Time) []replayKey {
	with := func(name string, scopes []string, more ...any) map[string]any {
		f := map[string]any{"name": name}
		if scopes != nil {
			f["scopes"] = scopes
		}
		for i := 0; i < len(more); i += 2 {
			f[more[i].(string)] = more[i+1]
		}
		return f
	}
	keys := []replayKey{
		{name: "full", tenant: "acme", fields: with("Full key, ü", p.scopes)},
		{name: "weaker", tenant: "acme", fields: with("weaker", p.weaker)},
		{name: "revoked", tenant: "acme", fields: with("revoked", p.scopes), then: "revoke"},
		{name: "disabled", tenant: "acme", fields: with("disabled", p.scopes), then: "disable"},
		{name: "unknown", tenant: "acme", fields: with("unknown", p.scopes), then: "delete"},
		{name: "rotated", tenant: "acme", fields: with("rotated", p.scopes), then: "rotate"},
		{name: "expired", tenant: "acme", fields: with("expired", p.scopes, "expires_at", soon.UTC().Format(time.RFC3339Nano))},
		{name: "elsewhere", tenant: "acme", fields: with("elsewhere", p.scopes, "allowed_ips", []string{"10.0.0.0/8"})},
		{name: "suspended", tenant: "suspended", fields: with("suspended", p.scopes)},
		{name: "limited", tenant: "limited", fields: with("limited", p.scopes)},
	}
	if p.credits {
		keys = append(keys, replayKey{name: "poor", tenant: "poor", fields: with("poor", p.scopes)})
	}
	if p.basic != "" && p.basic != "none" {
		keys = append(keys, replayKey{name: "basic", tenant: "basic", fields: with("basic", nil)})
	}
	return keys
}
