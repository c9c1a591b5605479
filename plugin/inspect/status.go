package inspect

import "time"

// Status is the state of a gateway.
type Status struct {
	// Degraded reports whether some part does not work as it should. Problems describe which.
	Degraded bool     `json:"degraded"`
	Problems []string `json:"problems"`
	// Version is the version of Keygate, CaddyVersion that of Caddy, and Node the name of the gateway that answers.
	Version      string     `json:"version"`
	CaddyVersion string     `json:"caddy_version"`
	Node         string     `json:"node"`
	StartedAt    *time.Time `json:"started_at"`
	// Keyspaces are the names of all configured keyspaces.
	Keyspaces []string `json:"keyspaces"`
	// StaleKeyspaces are the keyspaces whose keys the gateway no longer checks, because its data is older than max_staleness.
	StaleKeyspaces []string    `json:"stale_keyspaces,omitempty"`
	Store          StoreStatus `json:"store"`
	Limits         string      `json:"limits"`
	// SharedLimits is the state of limits in Redis; nil where limits are local.
	SharedLimits *LimitsStatus `json:"shared_limits,omitempty"`
	Nodes        []NodeStatus  `json:"nodes"`
}

// StoreStatus is the state of the store.
type StoreStatus struct {
	// Kind is "sqlite" or "postgres".
	Kind string `json:"kind"`
	OK   bool   `json:"ok"`
	// Error is why the store cannot be read or written; "" while it can.
	Error string `json:"error,omitempty"`
	// Seq is the number of the newest change in the store.
	Seq int64 `json:"seq"`
	// Secrets is about how many secrets the store holds.
	Secrets int64 `json:"secrets"`
	// Replica is the state of this gateway's replica; nil where it has none.
	Replica *ReplicaStatus `json:"replica,omitempty"`
}

// ReplicaStatus is the state of a gateway's own copy of the store.
type ReplicaStatus struct {
	// Used reports whether keys are checked by the replica. Until then it is being copied, and has Rows rows.
	Used bool  `json:"used"`
	Rows int64 `json:"rows,omitempty"`
	// SyncedAt is when the replica last held everything that the store holds; nil for never.
	SyncedAt *time.Time `json:"heard_at"`
	// Pending is how many revocations, made here or received from other gateways while the store was unreachable, still have
	// to be written to the store.
	Pending int64 `json:"pending"`
}

// LimitsStatus is the state of limits that several gateways share in Redis.
type LimitsStatus struct {
	// Mode is "exact" or "leased".
	Mode string `json:"mode"`
	// OK reports whether Redis answers. If not, Error is why, and Since from when.
	OK    bool       `json:"ok"`
	Error string     `json:"error,omitempty"`
	Since *time.Time `json:"since,omitempty"`
	// Nodes is how many gateways share the limits.
	Nodes int64 `json:"nodes"`
	// Asked counts the calls to Redis. Waited counts the requests that waited for a call, and FromMemory those that did not.
	// InOutage counts the requests that were decided while Redis did not answer. Errors counts the calls that failed.
	Asked      int64 `json:"asked"`
	Waited     int64 `json:"waited"`
	FromMemory int64 `json:"from_memory"`
	InOutage   int64 `json:"in_outage"`
	Errors     int64 `json:"errors"`
}

// NodeStatus is the state of one of the gateways that share a store.
type NodeStatus struct {
	Node string `json:"node"`
	// Self marks the gateway that answers.
	Self bool `json:"self"`
	// Seq is the number of the newest change that the node has applied. Lag is the number of newer changes.
	Seq int64 `json:"seq"`
	Lag int64 `json:"lag"`
	// Version is the version of Keygate; "" for a version before 0.2.0, which reports only Caddy's.
	Version      string `json:"version"`
	CaddyVersion string `json:"caddy_version"`
	// ConfigHash is the same for nodes with the same configuration.
	ConfigHash  string     `json:"config_hash"`
	LastContact *time.Time `json:"last_contact"`
	// StopsBy is when the node stops answering with the data that it holds, unless it reaches the store before. It is nil for the
	// node that answers the request.
	StopsBy *time.Time `json:"stops_by"`
	// KeyspacesStopBy has the time of StopsBy for each keyspace with a shorter max_staleness.
	KeyspacesStopBy map[string]time.Time `json:"keyspaces_stop_by,omitempty"`
	Ready           bool                 `json:"ready"`
	KeysCached      int64                `json:"keys_cached"`
}
