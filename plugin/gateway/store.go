package gateway

import (
	"context"
	"time"

	"github.com/keygate-dev/keygate/plugin/keytable"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

// The records and changes of a store, under the names that other packages know them by.
type (
	Key        = keytable.Key
	Tenant     = keytable.Tenant
	Secret     = keytable.Secret
	Overrides  = keytable.Overrides
	Record     = keytable.Record
	Status     = keytable.Status
	Change     = keytable.Change
	ChangeKind = keytable.ChangeKind

	// CachedKey and CachedTenant are what a Decision returns.
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
	// ErrStore is wrapped by every error that kept the store from answering. It says nothing
	// about a key.
	ErrStore = keytable.ErrStore
)

// Usage is a durable count of what a subject spent in one period of a quota.
type Usage struct {
	Subject  string
	Calendar ratelimit.Calendar
	// Start of the period in UTC; zero for ratelimit.Total.
	Start time.Time
	Used  int64
	// Unstored is set by Store.WriteFlush where it keeps no row of the count: too many addresses of the
	// same owner have one in this period.
	Unstored bool
}

// Touch is when and from where a key last authenticated.
type Touch struct {
	KeyID    string
	SecretID string
	At       time.Time
	IP       string
}

// Spend is what one key spent of its tenant's leased credits since the last flush.
type Spend struct {
	Keyspace string
	Tenant   string
	KeyID    string
	Amount   int64
	// Returned was given back to leases that this node no longer holds: it goes to the balance.
	Returned int64
	// Shortfall is what actual costs exceeded the balance by: recorded, not taken.
	Shortfall int64
}

// Flush is what a gateway counted since its last flush. Counts are durable within a second.
type Flush struct {
	At      time.Time
	Touches []Touch
	// Usage carries absolute counts to store (local limits): the row's count becomes Used.
	Usage  []Usage
	Spends []Spend
}

// The size of credit leases. Large leases pay for charges while the store is unreachable; small ones
// rarely deny a charge for credits that other nodes hold and do not spend.
const (
	// FewCharges is the number of charges that the unleased credits must cover; below, a node
	// leases what one charge needs.
	FewCharges = 128
	// LeaseShare is the part (one in LeaseShare) of the unleased credits that is leased otherwise.
	LeaseShare = 8
)

// Store is what gateways need of a store. Every method may block within ctx, may be called
// concurrently, and returns errors that wrap ErrNotFound or ErrStore.
type Store interface {
	keytable.Store
	// Changes returns up to limit changes after seq, in order. Old ones may have been
	// dropped, but never the newest.
	Changes(ctx context.Context, after int64, limit int) ([]Change, error)
	// LastSeq returns the newest change's seq, 0 when there is none.
	LastSeq(ctx context.Context) (int64, error)
	// Wait returns when changes may have been written by anyone since the last
	// call, or when ctx ends (its error then). It may return early.
	Wait(ctx context.Context) error
	// LoadUsage returns the counts of a subject's current quota periods at now.
	LoadUsage(ctx context.Context, subject string, now time.Time) ([]Usage, error)
	// WriteFlush stores f in one transaction.
	WriteFlush(ctx context.Context, node string, f *Flush) error
	// LeaseCredits reserves need credits of a tenant for node, or fewer where fewer are unleased.
	// Where the unleased credits cover FewCharges times need, it reserves one in LeaseShare of them.
	// It returns how many it added to the node's lease, and how many are left unleased. It does not
	// change the balance: leased credits are the tenant's until spent, and are released when the
	// node's lease ends.
	LeaseCredits(ctx context.Context, node, keyspace, tenant string, need int64) (granted, rest int64, err error)
	// ReturnCredits returns a node's unspent lease of a tenant, after WriteFlush stored the spends
	// from it.
	ReturnCredits(ctx context.Context, node, keyspace, tenant string) error
	// DropLeases releases the leases of node's former process. Called once, before the node leases
	// anything.
	DropLeases(ctx context.Context, node string) error
	// Peppers returns the check values of the peppers the store has seen, by pepper id;
	// SavePeppers adds to them.
	Peppers(ctx context.Context) (map[string]string, error)
	SavePeppers(ctx context.Context, checks map[string]string) error
	// TenantsByPlan counts the tenants, not deleted, that hold each plan of a keyspace.
	TenantsByPlan(ctx context.Context, keyspace string) (map[string]int64, error)
	// RenamePlan moves every tenant of one plan to another: `plan new { was old }`.
	RenamePlan(ctx context.Context, keyspace, from, to string) (int64, error)
	// Ping returns nil if the store answers now.
	Ping(ctx context.Context) error
	// Close releases the store. Later calls return an error; none panics.
	Close() error
}
