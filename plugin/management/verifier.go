package management

import (
	"context"
	"net/netip"
	"strings"
	"time"
)

// VerifyRequest is a request that somebody asks about, because it does not pass
// through the proxy, or to learn why it would be refused.
type VerifyRequest struct {
	// Key is the full key, "" for a request without one.
	Key string
	// Method of the request; "" for GET.
	Method string
	// Path of the request, as a client sends it, with or without a query. "": no rules of a
	// path are applied; any valid key will do.
	Path string
	// Cost is what it takes from quotas and credits; nil: what the path's rule says.
	Cost *int64
	// IP is the client's address; the zero Addr where it is not known, which passes no
	// list of allowed addresses.
	IP netip.Addr
}

// VerifyResult is what was decided about a VerifyRequest.
type VerifyResult struct {
	Allowed bool `json:"allowed"`
	// Reason is "allowed" or the refusal's name; Status and Code are what a client would
	// be answered with, Message what it would be told.
	Reason  string `json:"reason"`
	Status  int    `json:"status"`
	Code    string `json:"code"`
	Message string `json:"message"`
	// Path is the path in its canonical form, as it would go upstream; empty where none was given or
	// it is ambiguous.
	Path string `json:"path"`
	// Headers are what the answer would carry of limits.
	Headers map[string]string `json:"headers"`
	// The key's context, as an upstream would be told; empty where no key was found.
	Tenant      string   `json:"tenant"`
	Plan        string   `json:"plan"`
	KeyID       string   `json:"key_id"`
	KeyName     string   `json:"key_name"`
	Scopes      []string `json:"scopes"`
	Environment string   `json:"environment"`
	// Checks are each check's outcome in order, up to the one that refused. Only Explain
	// fills them.
	Checks []CheckResult `json:"checks,omitempty"`
}

// CheckResult is the outcome of one check.
type CheckResult struct {
	Check  string `json:"check"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

// RequestChecker decides about requests that do not pass through the proxy, as the proxy would.
type RequestChecker interface {
	// Verify decides and spends what the request costs.
	Verify(ctx context.Context, keyspace string, r VerifyRequest) (VerifyResult, error)
	// Explain decides alike, spends nothing, and fills Checks.
	Explain(ctx context.Context, keyspace string, r VerifyRequest) (VerifyResult, error)
}

// Status is how a gateway is.
type Status struct {
	// Degraded says that something does not work as it should; Problems what.
	Degraded bool     `json:"degraded"`
	Problems []string `json:"problems"`
	// Version is Keygate's in the gateway that answers, CaddyVersion Caddy's, and Node its name.
	Version      string     `json:"version"`
	CaddyVersion string     `json:"caddy_version"`
	Node         string     `json:"node"`
	StartedAt    *time.Time `json:"started_at"`
	// Keyspaces that are configured.
	Keyspaces []string `json:"keyspaces"`
	// StaleKeyspaces are those of which nothing was heard for so long that their keys are
	// not judged any more; absent where there are none.
	StaleKeyspaces []string    `json:"stale_keyspaces,omitempty"`
	Store          StoreStatus `json:"store"`
	Limits         string      `json:"limits"`
	// SharedLimits is how limits redis are; absent where limits are local.
	SharedLimits *LimitsStatus `json:"shared_limits,omitempty"`
	Nodes        []NodeStatus  `json:"nodes"`
}

// StoreStatus is how the store is.
type StoreStatus struct {
	// Kind is "sqlite" or "postgres".
	Kind string `json:"kind"`
	OK   bool   `json:"ok"`
	// Error says why not, "" while OK.
	Error string `json:"error,omitempty"`
	// Seq is the newest change in the store.
	Seq int64 `json:"seq"`
	// Secrets is about how many there are.
	Secrets int64 `json:"secrets"`
	// Replica is this gateway's own copy of the store; absent where there is none.
	Replica *ReplicaStatus `json:"replica,omitempty"`
}

// ReplicaStatus is how a gateway's own copy of the store is.
type ReplicaStatus struct {
	// Used says that keys are judged by it; else it is being made, Rows of it so far.
	Used bool  `json:"used"`
	Rows int64 `json:"rows,omitempty"`
	// SyncedAt is when it last held everything that the store does; null for never.
	SyncedAt *time.Time `json:"heard_at"`
	// Pending is how many refusals, taken here or told by other gateways while the store did not answer, are to be
	// written to it yet.
	Pending int64 `json:"pending"`
}

// LimitsStatus is how limits are that several gateways share.
type LimitsStatus struct {
	// Mode is "exact" or "leased".
	Mode string `json:"mode"`
	// OK says that the shared counts answer; Error why not, and Since from when.
	OK    bool       `json:"ok"`
	Error string     `json:"error,omitempty"`
	Since *time.Time `json:"since,omitempty"`
	// Nodes share the counts.
	Nodes int64 `json:"nodes"`
	// Asked is how often the shared counts were asked, Waited how many requests waited for that, and FromMemory
	// how many did not have to; InOutage were decided while nothing answered, and Errors are the calls that failed.
	Asked      int64 `json:"asked"`
	Waited     int64 `json:"waited"`
	FromMemory int64 `json:"from_memory"`
	InOutage   int64 `json:"in_outage"`
	Errors     int64 `json:"errors"`
}

// NodeStatus is how one gateway of several is.
type NodeStatus struct {
	Node string `json:"node"`
	// Self marks the one that answers.
	Self bool `json:"self"`
	// Seq is the newest change it acts by, Lag how many it is behind.
	Seq int64 `json:"seq"`
	Lag int64 `json:"lag"`
	// Version is Keygate's, "" of a gateway before 0.2.0, which tells Caddy's only.
	Version      string `json:"version"`
	CaddyVersion string `json:"caddy_version"`
	// ConfigHash tells configurations apart.
	ConfigHash  string     `json:"config_hash"`
	LastContact *time.Time `json:"last_contact"`
	// StopsBy is when it judges no more by what it holds, unless it is heard of before; null for the
	// one that answers.
	StopsBy *time.Time `json:"stops_by"`
	// KeyspacesStopBy is the same for keyspaces that have a shorter max_staleness.
	KeyspacesStopBy map[string]time.Time `json:"keyspaces_stop_by,omitempty"`
	Ready           bool                 `json:"ready"`
	KeysCached      int64                `json:"keys_cached"`
}

// InvalidField returns the refusal of one field, for what stands behind a RequestChecker. pointer is a JSON
// pointer such as "/path".
func InvalidField(pointer, detail string) *Error {
	var f Faults
	f.Invalid(strings.TrimPrefix(pointer, "/"), "%s", detail)
	return f.Err().(*Error)
}
