package engine

import (
	"log/slog"
	"time"

	"github.com/keygate-dev/keygate/plugin/cluster"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/management/webhooks"
)

// Target names the store of an engine, and the node that uses it. Both stay the same for the engine's life.
type Target struct {
	// Path is the SQLite file, or the name of the PostgreSQL database, without a password.
	Path string
	// Address is the first address of PostgreSQL; the zero value means SQLite.
	Address Address
	// Replica is the file of this node's own copy of PostgreSQL. Default: there is none.
	Replica string
	// Node names this process among those that share the store.
	Node string
}

// Address is the address of a PostgreSQL store. Later configurations of an engine may change it.
type Address struct {
	// DSN is the address for queries. Listen is the address for notifications; default: DSN.
	DSN, Listen string
}

// Shared reports whether several gateways may use the store.
func (t Target) Shared() bool { return t.Address != Address{} }

// Limits states where rates, quotas and concurrency are counted. The zero value means this
// process's memory.
type Limits struct {
	// Redis is the URL of the Redis server.
	Redis string
	// Leased makes this node take tokens from Redis in batches, before requests need them.
	Leased bool
	// Timeout is how long a request waits for Redis. Default: the default of package redis.
	Timeout time.Duration
}

// Keyspace holds the settings of a keyspace that are not in the View.
type Keyspace struct {
	Webhooks webhooks.Settings
	// UsageHours is how long hourly usage is kept.
	UsageHours time.Duration
}

// Config is one configuration of an engine. It must not change once it is applied. View and Log are required.
type Config struct {
	// View is the part of the configuration that checks of requests use.
	View *gateway.View
	// Address and Replica are this configuration's values for the Target's fields of that name.
	Address Address
	Replica string
	Limits  Limits
	// Staleness is how long this node checks keys by its own data while a shared store is
	// unreachable.
	Staleness cluster.Staleness
	// Keyspaces holds the settings of each keyspace by its name.
	Keyspaces map[string]Keyspace
	// Signer signs positions of the audit chain. Default: nil, they are not signed.
	Signer audit.Signer
	// Hash identifies this configuration to the other nodes.
	Hash string
	// Log receives the engine's messages while this configuration is the newest.
	Log *slog.Logger
	// Note is a file that keeps the path of the SQLite file which this configuration used last. Default: none.
	Note string

	// Active reports whether the program runs this configuration as a whole; Apply may succeed although another part
	// of the program fails later. It does not block. Default: it always does.
	Active func() bool
	// Ready is called once after each Apply, when the store was verified with this configuration
	// and requests are checked by it. Default: nothing is called.
	Ready func()
	// Events receives events while the configuration is active. Default: nil, no one receives
	// them.
	Events Subscriber
}

func (c *Config) active() bool { return c.Active == nil || c.Active() }
