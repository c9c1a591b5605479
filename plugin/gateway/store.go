package gateway

import (
	"context"
	"time"

	"github.com/keygate-dev/keygate/plugin/keytable"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

// These aliases of keytable's types let other packages import only gateway.
type (
	Key        = keytable.Key
	Tenant     = keytable.Tenant
	Secret     = keytable.Secret
	Overrides  = keytable.Overrides
	Record     = keytable.Record
	Status     = keytable.Status
	Change     = keytable.Change
	ChangeKind = keytable.ChangeKind

	// CachedKey and CachedTenant are the types in a Decision.
	CachedKey    = keytable.CachedKey
	CachedTenant = keytable.CachedTenant
)

const (
	StatusActive   = keytable.StatusActive
	StatusDisabled = keytable.StatusDisabled
	StatusRevoked  = keytable.StatusRevoked
	StatusExpired  = keytable.StatusExpired

	ChangeKey    = keytable.ChangeKey
	ChangeTenant = keytable.ChangeTenant
	ChangeToken  = keytable.ChangeToken
	ChangeSecret = keytable.ChangeSecret

	MaxPerHint = keytable.MaxPerHint
)

var (
	// ErrNotFound means that the store has no such row. It is an answer, not a failure.
	ErrNotFound = keytable.ErrNotFound
	// ErrStore is wrapped by every error of a store that could not answer. Such an error does not
	// mean that a key is unknown.
	ErrStore = keytable.ErrStore
)

// Usage is a durable count: how much a subject spent in one period of a quota.
type Usage struct {
	Subject  string
	Calendar ratelimit.Calendar
	// Start of the period in UTC; zero for ratelimit.Total.
	Start time.Time
	Used  int64
	// Unstored is set by Store.WriteFlush if it keeps no row of the count, because too many
	// addresses of the same owner have one in this period.
	Unstored bool
}

// Touch is when and from where a key last authenticated.
type Touch struct {
	KeyID    string
	SecretID string
	At       time.Time
	IP       string
}

// Spend is how one key changed its tenant's credits since the last flush.
type Spend struct {
	Keyspace string
	Tenant   string
	KeyID    string
	Amount   int64
	// Returned is the number of credits that were refunded after their lease had ended. The store adds them to the balance.
	Returned int64
	// Shortfall is the part of actual costs that the balance could not cover. The ledger records it, but nobody pays it.
	Shortfall int64
}

// Flush holds the counts of a gateway since its last flush. Counts are durable within a second.
type Flush struct {
	At      time.Time
	Touches []Touch
	// Usage holds absolute counts of local limits: the count in the store becomes Used.
	Usage  []Usage
	Spends []Spend
}

// The size of credit leases is a compromise. Large leases pay for charges while the store is
// unreachable. With small ones, a charge is rarely denied because other nodes hold credits that
// they do not spend.
const (
	// FewCharges is the number of charges that the unleased credits must cover for a normal lease.
	// With fewer, a node leases the cost of one charge.
	FewCharges = 128
	// LeaseShare is the divisor of a normal lease: a node leases one in LeaseShare of the unleased credits.
	LeaseShare = 8
)

// Store is the storage that gateways need. Every method may block within ctx, may be called
// concurrently, and returns errors that wrap ErrNotFound or ErrStore.
type Store interface {
	keytable.Store
	// Changes returns at most limit changes after a change number, in order. Old changes may have
	// been removed, but never the newest.
	Changes(ctx context.Context, after int64, limit int) ([]Change, error)
	// LastSeq returns the number of the newest change, 0 if there is none.
	LastSeq(ctx context.Context) (int64, error)
	// Wait blocks until some process may have written changes since the last call. It may return early. If ctx ends, it
	// returns the error of ctx.
	Wait(ctx context.Context) error
	// LoadUsage returns the counts of a subject's quota periods at now, and of later periods, in which requests were counted
	// while the clock was ahead.
	LoadUsage(ctx context.Context, subject string, now time.Time) ([]Usage, error)
	// WriteFlush stores f in one transaction.
	WriteFlush(ctx context.Context, node string, f *Flush) error
	// LeaseCredits reserves need credits of a tenant for node, or fewer if fewer are unleased. If
	// the unleased credits cover FewCharges times need, it reserves one in LeaseShare of them.
	// granted is how many it added to the node's lease, and rest how many are still unleased. The
	// balance does not change: leased credits are the tenant's until spent, and free again when
	// the lease ends.
	LeaseCredits(ctx context.Context, node, keyspace, tenant string, need int64) (granted, rest int64, err error)
	// ReturnCredits ends a node's lease of a tenant, after WriteFlush has stored the credits spent
	// from it.
	ReturnCredits(ctx context.Context, node, keyspace, tenant string) error
	// DropLeases ends the leases of node's former process. It is called once, before the node
	// leases credits.
	DropLeases(ctx context.Context, node string) error
	// Peppers returns the check values of all peppers used with the store, by pepper id;
	// SavePeppers adds some.
	Peppers(ctx context.Context) (map[string]string, error)
	SavePeppers(ctx context.Context, checks map[string]string) error
	// TenantsByPlan returns the number of tenants that have each plan of a keyspace, without
	// deleted ones.
	TenantsByPlan(ctx context.Context, keyspace string) (map[string]int64, error)
	// RenamePlan moves every tenant of one plan to another, for `plan new { was old }`, and
	// returns their number.
	RenamePlan(ctx context.Context, keyspace, from, to string) (int64, error)
	// Ping returns nil if the store answers now.
	Ping(ctx context.Context) error
	// Close releases the store. Later calls return an error; none panics.
	Close() error
}
