// Package config reads the configuration of Keygate from a Caddyfile or from JSON, checks it and compiles it.
//
// Both forms end in the same structs, config*.go, and in the same checks, compile*.go. The errors of a Caddyfile name
// file and line; see field.go. It opens no file, no store and no connection, but for the file of leaks github_keys.
package config

import (
	"github.com/caddyserver/caddy/v2"

	"github.com/keygate-dev/keygate/plugin/apikey"
)

// DefaultKeyspace is the keyspace of whatever stands outside a keyspace block.
const DefaultKeyspace = "default"

// Config is the keygate app's configuration: the products whose keys this server checks, and where their
// tenants and keys are kept.
type Config struct {
	// Store is where tenants and keys are kept. Default: the SQLite file keygate.db.
	Store *StoreConfig `json:"store,omitempty"`
	// Node names this gateway among those that share its store: in receipts, status and
	// usage. It may be a placeholder such as {env.HOSTNAME}. Default: the machine's name and some
	// random characters; "local" with store sqlite.
	Node string `json:"node,omitempty"`
	// Limits is where rates, quotas and concurrency are counted. Default: in this process.
	Limits *LimitsConfig `json:"limits,omitempty"`
	// Peppers makes stored digests HMAC-SHA-256 under the first one, so that a stolen
	// store alone can't be searched for known keys; further ones are previous peppers,
	// whose keys go on working. Each has at least 16 bytes and should be a placeholder,
	// because configurations are saved in clear. Default: none, plain SHA-256.
	Peppers []string `json:"peppers,omitempty"`
	// ImportPeppers are those of another system, from which keys were imported as their
	// HMAC-SHA-256. They are used to find those keys and for nothing else; each should be a
	// placeholder. Default: none.
	ImportPeppers []string `json:"import_peppers,omitempty"`
	// Secret encrypts what must be stored readably, and should be a placeholder. Default: none.
	Secret string `json:"secret,omitempty"`
	// SecretOptional lets Secret's placeholder be empty: there is no secret then. Default: false.
	SecretOptional bool `json:"secret_optional,omitempty"`
	// Leaks configures who may report leaked keys. Default: only a client that has the key.
	Leaks *LeaksConfig `json:"leaks,omitempty"`
	// Keyspaces are the products by name. Default: one named "default" with all defaults.
	Keyspaces map[string]*KeyspaceConfig `json:"keyspaces,omitempty"`
}

// StoreConfig is where tenants and keys are kept. Strings may hold placeholders
// such as {env.DATABASE_URL}, which are expanded when the configuration is loaded.
type StoreConfig struct {
	// Type names the store: "sqlite", a file on this machine, or "postgres", a server
	// that several machines share. Default: "sqlite".
	Type string `json:"type,omitempty"`
	// Path is the SQLite file, created when it does not exist. A relative path counts
	// from the working directory. Default: "keygate.db".
	Path string `json:"path,omitempty"`
	// DSN is how PostgreSQL is reached. It has no default and should be a placeholder,
	// because configurations are saved in clear.
	DSN string `json:"dsn,omitempty"`
	// Listen is the server's own address, where DSN leads through a pooler such as PgBouncer:
	// this node receives changes over it. Default: DSN.
	Listen string `json:"listen,omitempty"`
	// Replica is the local file in which a node keeps its copy of what PostgreSQL holds.
	// Default: no copy; keys that are not in memory are read from PostgreSQL.
	Replica string `json:"replica,omitempty"`
	// MaxStaleness is how long a node still checks keys by its own data while PostgreSQL is
	// unreachable, in keyspaces that do not set it themselves. Default: 1h.
	MaxStaleness caddy.Duration `json:"max_staleness,omitempty"`
}

// LimitsConfig is where rates, quotas and concurrency are counted.
type LimitsConfig struct {
	// Type is "local", this process's memory, or "redis", which several machines share.
	// Default: "local".
	Type string `json:"type,omitempty"`
	// Address is the URL of the Redis server, and may be a placeholder. It has no default.
	Address string `json:"address,omitempty"`
	// Mode is "exact", which asks Redis for each request, or "leased", which takes
	// tokens in small batches ahead of need. Default: "exact".
	Mode string `json:"mode,omitempty"`
	// Timeout is the longest that a request waits for Redis. Default: 5ms.
	Timeout caddy.Duration `json:"timeout,omitempty"`
}

// LeaksConfig configures who may report leaked keys besides clients that have the key.
type LeaksConfig struct {
	// GitHubKeys is a file with the public keys of GitHub's secret scanning, as
	// https://api.github.com/meta/public_keys/secret_scanning answers them. It is read when the
	// configuration is loaded. Default: none, and GitHub's reports are not taken.
	GitHubKeys string `json:"github_keys,omitempty"`
}

// KeyspaceConfig is one product: its key shapes, its plans, its words. Tenants and
// keys are in the store, under the keyspace's name.
type KeyspaceConfig struct {
	// Prefixes are what issued keys begin with, and the environment each stands for;
	// the first one's environment is the default for new keys.
	// Default: "kg_live_" for "live" and "kg_test_" for "test".
	Prefixes []apikey.Prefix `json:"prefixes,omitempty"`
	// Format is the shape of issued keys after their prefix. At least 128 bits of a key
	// must be random, and 96 neither shown in lists nor implied by what is shown.
	// Default: 32 characters, the last six of them a checksum.
	Format *apikey.Format `json:"format,omitempty"`
	// Accept are further shapes, of keys that were issued elsewhere and imported. They
	// are accepted, never issued. Default: none.
	Accept []apikey.Accept `json:"accept,omitempty"`
	// Credentials are the places of a request where a key may stand.
	// Default: a Bearer token in Authorization, and the header X-API-Key.
	Credentials []apikey.Place `json:"credentials,omitempty"`
	// Scopes are what keys may be allowed to do, at most 64 names. Default: none.
	Scopes []string `json:"scopes,omitempty"`
	// CumulativeScopes makes each scope include all those after it. Default: false,
	// each scope stands for itself.
	CumulativeScopes bool `json:"cumulative_scopes,omitempty"`
	// Plans are what tenants may have bought, in the order in which they are shown.
	// Default: one plan named "default" with no limits.
	Plans []*PlanConfig `json:"plans,omitempty"`
	// DefaultPlan is the plan of a tenant created without one. Default: the only plan
	// where there is one, else none, and then a new tenant's plan must be stated.
	DefaultPlan string `json:"default_plan,omitempty"`
	// Errors is how refusals are worded. Default: problem details in the words of the manual.
	Errors *ErrorsConfig `json:"errors,omitempty"`
	// Failures is the rate of unknown keys that one client address may send before it
	// is told to slow down, such as "100/m burst 20", or "off". A valid key is never
	// refused for it. Default: "100/m".
	Failures string `json:"failures,omitempty"`
	// MaxStaleness is how long a node still checks the keyspace's keys by its own data while PostgreSQL is
	// unreachable. After that, requests get 503. Default: the store's.
	MaxStaleness caddy.Duration `json:"max_staleness,omitempty"`
	// Requests is how each key's last requests are remembered. Default: the last 100, for a day.
	Requests *RequestsConfig `json:"requests,omitempty"`
	// Usage is how what keys used is kept. Default: by hour for 90 days, then by day.
	Usage *UsageConfig `json:"usage,omitempty"`
	// Webhooks is how events reach webhooks. Default: at public addresses only.
	Webhooks *WebhooksConfig `json:"webhooks,omitempty"`
	// AdminAPI set to "open" serves this keyspace's management API on Caddy's admin
	// endpoint also where that listens neither on loopback nor on a Unix socket. Default: "".
	AdminAPI string `json:"admin_api,omitempty"`
	// Headers chooses the limit headers of responses, where a directive does not state
	// its own. Default: all of them.
	Headers *HeadersConfig `json:"headers,omitempty"`
}

// PlanConfig is what a tenant bought.
type PlanConfig struct {
	// Name is how tenants' records refer to the plan.
	Name string `json:"name"`
	// Deny gives no API access at all. Default: false.
	Deny bool `json:"deny,omitempty"`
	// Observe checks, counts and logs requests that the plan would have rejected, but
	// lets them pass. Default: false.
	Observe bool `json:"observe,omitempty"`
	// MaxKeys caps how many active keys a tenant may have. Default: 0, no cap.
	MaxKeys int `json:"max_keys,omitempty"`
	// Scopes caps what the plan's keys may do. Default: no cap.
	Scopes []string `json:"scopes,omitempty"`
	// Limits are the plan's limits, in the order in which responses list them, each as
	// a Caddyfile writes it: "rate 300/m burst 60", "quota 100000/month",
	// "concurrency 50 per tenant" or "credits". Default: none.
	Limits []string `json:"limits,omitempty"`
	// OnRedisDown is what happens while Redis does not answer: "local" counts
	// here, "open" lets pass, "closed" refuses. Default: "local".
	OnRedisDown string `json:"on_redis_down,omitempty"`
	// OnLeak is what happens to a key that is reported leaked: "revoke", "disable", which can be
	// undone, or "report", which only records it and tells webhooks. Default: "report".
	OnLeak string `json:"on_leak,omitempty"`
	// Was names former plans that no longer exist; their tenants are on this one now. Default: none.
	Was []string `json:"was,omitempty"`
}

// ErrorsConfig is how a keyspace words its refusals.
type ErrorsConfig struct {
	// Style of the bodies: "problem" (RFC 9457), "detail", {"detail": message}, or
	// "envelope", {"error": {"code": code, "message": message}}. Default: "problem".
	Style string `json:"style,omitempty"`
	// Refusals changes single reasons, such as "missing_key". Default: the words of the manual.
	Refusals map[string]*RefusalConfig `json:"refusals,omitempty"`
}

// RefusalConfig changes how one reason answers. Empty fields change nothing.
type RefusalConfig struct {
	// Status is the HTTP status, 400 to 599. Default: the reason's own.
	Status int `json:"status,omitempty"`
	// Code is what programs tell reasons apart by. Default: the reason's name.
	Code string `json:"code,omitempty"`
	// Message is what people read. Default: the reason's own.
	Message string `json:"message,omitempty"`
}

// HeadersConfig chooses the limit headers of responses.
type HeadersConfig struct {
	// NoX leaves X-RateLimit-Limit, X-RateLimit-Remaining and X-RateLimit-Reset out. Default: false.
	NoX bool `json:"no_x,omitempty"`
	// NoIETF leaves RateLimit-Policy and RateLimit out. Default: false.
	NoIETF bool `json:"no_ietf,omitempty"`
	// ResetDelta makes X-RateLimit-Reset the seconds until it happens. Default: false,
	// the Unix time at which it happens.
	ResetDelta bool `json:"reset_delta,omitempty"`
}
