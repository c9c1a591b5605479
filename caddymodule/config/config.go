// Package config reads the configuration of Keygate from a Caddyfile or from JSON, checks it and
// compiles it.
//
// Both forms end in the same structs (config*.go) and the same checks (compile*.go). Errors about
// a Caddyfile name file and line; see field.go. The package opens no store and no connection; the
// only file that it reads is github_keys.
package config

import (
	"github.com/caddyserver/caddy/v2"

	"github.com/keygate-dev/keygate/plugin/apikey"
)

// DefaultKeyspace is the keyspace that options outside of a keyspace block configure.
const DefaultKeyspace = "default"

// Config is the keygate app's configuration: the keyspaces (products) whose keys this server
// checks, and the store of their tenants and keys.
type Config struct {
	// Store is the store of tenants and keys. Default: the SQLite file keygate.db.
	Store *StoreConfig `json:"store,omitempty"`
	// Node is this gateway's name in receipts, status and usage; gateways that share a store need
	// different names. It may be a placeholder such as {env.HOSTNAME}. Default: the machine's name
	// and some random characters; "local" with store sqlite.
	Node string `json:"node,omitempty"`
	// Limits configures where rates, quotas and concurrency are counted. Default: in this process.
	Limits *LimitsConfig `json:"limits,omitempty"`
	// Peppers makes the digests of keys in the store HMAC-SHA-256 with the first pepper, so that a
	// stolen store alone can't be searched for known keys. The other peppers are previous ones;
	// keys that were stored with them stay valid. Each has at least 16 bytes and should be a
	// placeholder, because Caddy saves configurations in plain text. Default: none, plain SHA-256.
	Peppers []string `json:"peppers,omitempty"`
	// ImportPeppers are peppers of another system, whose keys were imported as HMAC-SHA-256
	// digests. They serve only to find those keys. Each should be a placeholder. Default: none.
	ImportPeppers []string `json:"import_peppers,omitempty"`
	// Secret encrypts stored values that must be readable again, such as webhook secrets. It
	// should be a placeholder. Default: none.
	Secret string `json:"secret,omitempty"`
	// SecretOptional allows the placeholder in Secret to be empty, which means no secret. Default:
	// false.
	SecretOptional bool `json:"secret_optional,omitempty"`
	// Leaks configures reports of leaked keys. Default: only clients that send the leaked key
	// itself may report it.
	Leaks *LeaksConfig `json:"leaks,omitempty"`
	// Keyspaces maps names to keyspaces, one for each product. Default: one named "default" with
	// all defaults.
	Keyspaces map[string]*KeyspaceConfig `json:"keyspaces,omitempty"`
}

// StoreConfig configures the store of tenants and keys. Its strings may hold placeholders such as
// {env.DATABASE_URL}, which are expanded when the configuration is loaded.
type StoreConfig struct {
	// Type names the store: "sqlite", a file on this machine, or "postgres", a server
	// that several machines share. Default: "sqlite".
	Type string `json:"type,omitempty"`
	// Path is the SQLite file, created when it does not exist. A relative path counts
	// from the working directory. Default: "keygate.db".
	Path string `json:"path,omitempty"`
	// Wait is how long a start waits for another process that uses the SQLite file and is about to
	// stop. A file whose process goes on is an error at once. Default: 60s.
	Wait caddy.Duration `json:"wait,omitempty"`
	// DSN is the connection string of PostgreSQL. It is required for "postgres" and should be a
	// placeholder, because Caddy saves configurations in plain text.
	DSN string `json:"dsn,omitempty"`
	// Listen is a connection string that leads directly to PostgreSQL, over which this node
	// receives changes. It is needed if DSN leads through a pooler such as PgBouncer. Default:
	// DSN.
	Listen string `json:"listen,omitempty"`
	// Replica is the local file for this node's copy of the PostgreSQL database. Default: no copy;
	// keys that are not in memory are read from PostgreSQL.
	Replica string `json:"replica,omitempty"`
	// MaxStaleness is how long a node continues to check keys with its local data while PostgreSQL
	// is unreachable. A keyspace may set its own. Default: 1h.
	MaxStaleness caddy.Duration `json:"max_staleness,omitempty"`
}

// LimitsConfig configures where rates, quotas and concurrency are counted.
type LimitsConfig struct {
	// Type is "local", this process's memory, or "redis", a server that several machines share.
	// Default: "local".
	Type string `json:"type,omitempty"`
	// Address is the URL of the Redis server, and may be a placeholder. It is required for
	// "redis".
	Address string `json:"address,omitempty"`
	// Mode is "exact", which asks Redis for each request, or "leased", which reserves small
	// batches in advance. Default: "exact".
	Mode string `json:"mode,omitempty"`
	// Timeout is the longest that a request waits for Redis. Default: 5ms.
	Timeout caddy.Duration `json:"timeout,omitempty"`
}

// LeaksConfig configures who may report leaked keys besides clients that have the key.
type LeaksConfig struct {
	// GitHubKeys is a file with the public keys of GitHub's secret scanning, as downloaded from
	// https://api.github.com/meta/public_keys/secret_scanning. It is read when the configuration
	// is loaded. Default: none, and GitHub's reports are rejected.
	GitHubKeys string `json:"github_keys,omitempty"`
}

// KeyspaceConfig configures one product: the shapes of its keys, its plans and its error texts.
// Its tenants and keys are in the store, under the keyspace's name.
type KeyspaceConfig struct {
	// Prefixes are the beginnings of issued keys, each with its environment. The first one's
	// environment is the default for new keys. Default: "kg_live_" for "live" and "kg_test_" for
	// "test".
	Prefixes []apikey.Prefix `json:"prefixes,omitempty"`
	// Format is the shape of issued keys after their prefix. At least 128 bits of a key must be
	// random, and 96 of them must stay secret when the key's hint is shown in lists. Default: 32
	// characters, the last six of them a checksum.
	Format *apikey.Format `json:"format,omitempty"`
	// Accept are the shapes of keys that another system issued and that were imported. The gateway
	// accepts them but never issues such keys. Default: none.
	Accept []apikey.Accept `json:"accept,omitempty"`
	// Credentials are the places of a request where a key may be. Default: a Bearer token in
	// Authorization, and the header X-API-Key.
	Credentials []apikey.Place `json:"credentials,omitempty"`
	// Scopes are the names of the permissions that keys may have, at most 64. Default: none.
	Scopes []string `json:"scopes,omitempty"`
	// CumulativeScopes makes each scope include all scopes after it. Default: false, scopes are
	// independent.
	CumulativeScopes bool `json:"cumulative_scopes,omitempty"`
	// Plans are the plans that a tenant may have, in display order. Default: one plan named
	// "default" with no limits.
	Plans []*PlanConfig `json:"plans,omitempty"`
	// DefaultPlan is the plan of a tenant that is created without one. Default: the only plan if
	// there is one; with several plans, a new tenant must name its plan.
	DefaultPlan string `json:"default_plan,omitempty"`
	// Errors configures the bodies of rejections. Default: problem details (RFC 9457) with
	// standard texts.
	Errors *ErrorsConfig `json:"errors,omitempty"`
	// Failures is the rate of unknown keys that one client address may send before it gets 429,
	// such as "100/m burst 20", or "off". Requests with a valid key are never rejected by it.
	// Default: "100/m".
	Failures string `json:"failures,omitempty"`
	// MaxStaleness is how long a node continues to check this keyspace's keys with its local data
	// while PostgreSQL is unreachable. After that, requests get 503. Default: the store's.
	MaxStaleness caddy.Duration `json:"max_staleness,omitempty"`
	// Requests configures the log of each key's last requests. Default: the last 100, for a day.
	Requests *RequestsConfig `json:"requests,omitempty"`
	// Usage configures the usage statistics of keys. Default: by hour for 90 days, then by day.
	Usage *UsageConfig `json:"usage,omitempty"`
	// Webhooks configures the delivery of webhooks. Default: only to public addresses.
	Webhooks *WebhooksConfig `json:"webhooks,omitempty"`
	// AdminAPI set to "open" serves this keyspace's management API on Caddy's admin endpoint even
	// if that endpoint listens on a network address. Default: "", only on loopback addresses and
	// Unix sockets.
	AdminAPI string `json:"admin_api,omitempty"`
	// Headers chooses the limit headers of responses, unless a keygate directive has its own
	// choice. Default: all of them.
	Headers *HeadersConfig `json:"headers,omitempty"`
}

// PlanConfig configures one plan: the access and the limits of a tenant that has it.
type PlanConfig struct {
	// Name identifies the plan in tenants' records.
	Name string `json:"name"`
	// Deny rejects every request of the plan's tenants. Default: false.
	Deny bool `json:"deny,omitempty"`
	// Observe checks, counts and logs requests that the plan would reject, but lets them pass.
	// Default: false.
	Observe bool `json:"observe,omitempty"`
	// MaxKeys is the greatest number of active keys per tenant. Default: 0, no limit.
	MaxKeys int `json:"max_keys,omitempty"`
	// Scopes restricts the plan's keys to these scopes. Default: no restriction.
	Scopes []string `json:"scopes,omitempty"`
	// Limits are the plan's limits in Caddyfile syntax: "rate 300/m burst 60", "quota
	// 100000/month", "concurrency 50 per tenant" or "credits". Responses list them in this order.
	// Default: none.
	Limits []string `json:"limits,omitempty"`
	// OnRedisDown is the behavior while Redis is unreachable: "local" counts in this process,
	// "open" accepts requests uncounted, "closed" rejects them. Default: "local".
	OnRedisDown string `json:"on_redis_down,omitempty"`
	// OnLeak is the action for a key that is reported as leaked: "revoke"; "disable", which can be
	// undone; or "report", which only records the report and notifies webhooks. Default: "report".
	OnLeak string `json:"on_leak,omitempty"`
	// Was names former plans, which no longer exist. Their tenants have this plan now. Default:
	// none.
	Was []string `json:"was,omitempty"`
}

// ErrorsConfig configures the bodies of a keyspace's rejections.
type ErrorsConfig struct {
	// Style is the style of the bodies: "problem" (RFC 9457), "detail", {"detail": message}, or
	// "envelope", {"error": {"code": code, "message": message}}. Default: "problem".
	Style string `json:"style,omitempty"`
	// Refusals changes the responses for single reasons, such as "missing_key". Default: standard
	// responses.
	Refusals map[string]*RefusalConfig `json:"refusals,omitempty"`
}

// RefusalConfig changes the response for one rejection reason. Empty fields change nothing.
type RefusalConfig struct {
	// Status is the HTTP status, 400 to 599. Default: the reason's own.
	Status int `json:"status,omitempty"`
	// Code is the error code for programs. Default: the reason's name.
	Code string `json:"code,omitempty"`
	// Message is the error text for people. Default: the reason's own.
	Message string `json:"message,omitempty"`
}

// HeadersConfig chooses the limit headers of responses.
type HeadersConfig struct {
	// NoX leaves X-RateLimit-Limit, X-RateLimit-Remaining and X-RateLimit-Reset out. Default: false.
	NoX bool `json:"no_x,omitempty"`
	// NoIETF leaves RateLimit-Policy and RateLimit out. Default: false.
	NoIETF bool `json:"no_ietf,omitempty"`
	// ResetDelta makes X-RateLimit-Reset the number of seconds until the reset. Default: false,
	// the Unix time of the reset.
	ResetDelta bool `json:"reset_delta,omitempty"`
}
