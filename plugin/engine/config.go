package engine

import (
	"log/slog"
	"time"

	"github.com/keygate-dev/keygate/plugin/cluster"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
)

// Target names the store of an engine, and the node that uses it. Both stay the same for the engine's life.
type Target struct {
	// Path is the SQLite file, or the name of the PostgreSQL database, without a password.
	Path string
	// Address is where PostgreSQL is reached first; the zero value means SQLite.
	Address Address
	// Replica is the file of this node's own copy of PostgreSQL. Default: there is none.
	Replica string
	// Node names this process among those that share the store.
	Node string
}

// Address is where a PostgreSQL store is reached. It may change over the configurations of an engine.
type Address struct {
	// DSN is the address for queries, and Listen that for notifications. Default of Listen: DSN.
	DSN, Listen string
}

// Shared reports whether several gateways may use the store.
func (t Target) Shared() bool { return t.Address != Address{} }

// Limits is where rates, quotas and concurrency are counted. The zero value means this process's memory.
type Limits struct {
	// Redis is the URL of the Redis server.
	Redis string
	// Leased takes tokens from Redis in batches ahead of need.
	Leased bool
	// Timeout is how long a request waits for Redis. Default: that of package redis.
	Timeout time.Duration
}

// Keyspace is what the engine needs to know of a keyspace beyond its part of the View.
type Keyspace struct {
	Webhooks management.WebhookSettings
	// UsageHours is how long usage is kept by the hour.
	UsageHours time.Duration
}

// Config is one configuration of an engine. It must not change once it is applied. View and Log are required.
type Config struct {
	// View is what requests are checked by.
	View *gateway.View
	// Address and Replica are what this configuration states for the Target's fields of that name.
	Address Address
	Replica string
	Limits  Limits
	// Staleness is how long this node checks keys by what it holds while a shared store is unreachable.
	Staleness cluster.Staleness
	// Keyspaces by name.
	Keyspaces map[string]Keyspace
	// Signer signs positions of the audit chain. Default: nil, they are not signed.
	Signer audit.Signer
	// Hash tells this configuration from others, for the other nodes.
	Hash string
	// Log receives the engine's messages while this configuration is the newest.
	Log *slog.Logger
	// Note is a file that keeps the path of the SQLite file which this configuration used last. Default: none.
	Note string

	// Active reports whether the program runs this configuration as a whole; Apply may succeed although another part
	// of the program fails later. It does not block. Default: it always does.
	Active func() bool
	// Ready is called each time that requests begin to be checked by this configuration and a store that was
	// verified with it. Default: nothing is called.
	Ready func()
	// Events subscribes to events. It is asked only while the configuration is active. Default: nothing does.
	Events Subscriber
}

func (c *Config) active() bool { return c.Active == nil || c.Active() }
