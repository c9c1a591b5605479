package engine

import (
	"log/slog"
	"time"

	"github.com/keygate-dev/keygate/plugin/cluster"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/management/webhooks"
)

// Target names the store of an engine, and the node that uses the store. Neither changes while the engine exists.
type Target struct {
	// Path is the SQLite file, or the name of the PostgreSQL database, without a password.
	Path string
	// Address is the first address of the PostgreSQL store. The zero value means that the store is SQLite.
	Address Address
	// Replica is the file of this node's own copy of the PostgreSQL database. Default: the node has no copy.
	Replica string
	// Wait is how long the engine waits for another process that owns the SQLite file and is about to end. Default: the
	// engine does not wait.
	Wait time.Duration
	// Node is the name of this process among the processes that share the store.
	Node string
}

// Address is the address of a PostgreSQL store. Later configurations of an engine may change it.
type Address struct {
	// DSN is the address for queries. Listen is the address for notifications; default: DSN.
	DSN, Listen string
}

// Shared reports whether several gateways may use the store.
func (t Target) Shared() bool { return t.Address != Address{} }

// Limits states where the engine counts rates, quotas and concurrency. The zero value means that the
// engine counts in this process's memory.
type Limits struct {
	// Redis is the URL of the Redis server.
	Redis string
	// Leased makes this node take tokens from Redis in batches, before requests need them.
	Leased bool
	// Timeout is how long a request waits for Redis. Default: the default timeout of package redis.
	Timeout time.Duration
}

// Keyspace holds the settings of a keyspace that are not in the View, the part of the configuration
// that checks of requests use.
type Keyspace struct {
	Webhooks webhooks.Settings
	// UsageHours is how long the store keeps hourly usage.
	UsageHours time.Duration
}

// Config is one configuration of an engine. A Config must not change once it is applied. View and Log are required.
type Config struct {
	// View is the part of the configuration that checks of requests use.
	View *gateway.View
	// Address and Replica are this configuration's values for the fields Address and Replica of Target.
	Address Address
	Replica string
	Limits  Limits
	// Staleness is how long this node checks keys by its own data while a shared store is
	// unreachable.
	Staleness cluster.Staleness
	// Keyspaces holds the settings of each keyspace by its name.
	Keyspaces map[string]Keyspace
	// Signer signs positions of the audit chain. Default: nil, which means that positions are not signed.
	Signer audit.Signer
	// Hash identifies this configuration to the other nodes.
	Hash string
	// Log receives the engine's messages while this configuration is the newest.
	Log *slog.Logger
	// Note is the path of a file in which the engine keeps the path of the SQLite file that it used last. Default: no file.
	Note string

	// Active reports whether the program runs this configuration as a whole. Apply may succeed although another part of the
	// program fails later. Active does not block. Default: the configuration is always active.
	Active func() bool
	// Ready is called once after each Apply, when the engine has verified the store with this configuration
	// and checks requests by it. Default: nothing is called.
	Ready func()
	// Events receives events while the configuration is active. Default: nil, which means that events are
	// dropped.
	Events Subscriber
}

func (c *Config) active() bool { return c.Active == nil || c.Active() }
