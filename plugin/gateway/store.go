package gateway

import (
	"context"
	"errors"
	"time"

	"github.com/keygate-dev/keygate/plugin/apikey"
)

// ErrNotFound says that the store has no such row. It is an answer, not a failure.
var ErrNotFound = errors.New("not found")

// ErrStore wraps whatever kept the store from answering: nothing can be concluded
// from it about a key.
var ErrStore = errors.New("store unavailable")

// ChangeKind says what a row of the change sequence is about.
type ChangeKind string

const (
	ChangeKey    ChangeKind = "key"
	ChangeTenant ChangeKind = "tenant"
	// ChangeToken is about a management token, by which no request is judged.
	ChangeToken ChangeKind = "token"
	// ChangeSecret is about the form that secrets of a key are stored in: the key is the same.
	ChangeSecret ChangeKind = "secret"
)

// Change is one row of the store's change sequence. Every management write appends,
// in its own transaction, one for each key or tenant that must be judged anew.
type Change struct {
	// Seq rises with every change and becomes visible in order.
	Seq      int64
	Kind     ChangeKind
	Keyspace string
	// ID is the key's or token's id, or the tenant's slug.
	ID string
	// Mark tells the change from one that has its Seq in another store, or in this one after
	// an older copy of it took its place. Changes returns it.
	Mark int64
}

// Touch is when and from where a key last authenticated.
type Touch struct {
	KeyID    string
	SecretID string
	At       time.Time
	IP       string
}

// Spend is what one key spent of its tenant's leased credits since the last settlement.
type Spend struct {
	Keyspace string
	Tenant   string
	KeyID    string
	Amount   int64
	// Returned was given back of leases that this node does not hold any more: it goes to
	// the balance, and to no lease.
	Returned int64
	// Shortfall is what actual costs exceeded the balance by: recorded, not taken.
	Shortfall int64
}

// Flush is what the engine counted since it last wrote: durable within a second of
// having happened.
type Flush struct {
	At      time.Time
	Touches []Touch
	// Usage carries absolute counts to store (local limits): the row's count becomes Used.
	Usage  []Usage
	Spends []Spend
}

// How much of a balance a node leases, so that hardly a charge is refused for what other nodes hold and do not
// spend, and most are paid for while the store is away.
const (
	// FewCharges is for how many charges there must be credits that nobody holds, or no more is leased
	// than one needs.
	FewCharges = 128
	// LeaseShare is which part of those is leased otherwise.
	LeaseShare = 8
)

// Store is what the engine needs of a store. Every method may block within ctx, may
// be called from many goroutines, and returns errors that wrap ErrNotFound or
// ErrStore.
type Store interface {
	// Lookup returns the record of the first of digests that some secret of the
	// keyspace has. ErrNotFound when none has, or its key or tenant was deleted.
	// The one query behind a key's first use.
	Lookup(ctx context.Context, keyspace string, digests []apikey.Candidate) (*Record, error)
	// LookupSecret is Lookup for a secret whose id is known, in whatever form it is stored.
	LookupSecret(ctx context.Context, keyspace, secretID string) (*Record, error)
	// SecretsByHint returns up to limit secrets of the keyspace whose digest begins with lead,
	// but none of deleted keys: those among which a key that was imported as bcrypt must be.
	SecretsByHint(ctx context.Context, keyspace string, lead apikey.Hint, limit int) ([]Secret, error)
	// Digests calls yield with the stored digest of every secret of every keyspace,
	// in no order, until yield returns false. It must not hold up writers.
	Digests(ctx context.Context, yield func(keyspace string, digest []byte) bool) error
	// CountSecrets returns about how many secrets there are: the size Digests will yield.
	CountSecrets(ctx context.Context) (int64, error)
	// SecretDigests returns the stored digests of one key's secrets.
	SecretDigests(ctx context.Context, keyspace, keyID string) ([][]byte, error)
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
	// LeaseCredits reserves need credits of a tenant for node, as far as there are, or where those that
	// nobody holds would do for FewCharges of that and more, one in LeaseShare of them. It returns how many it got on
	// top of what it held, and how many are left that nobody holds. The balance itself is not changed: leased
	// credits are the tenant's until spent, and return by themselves when the node's lease ends.
	LeaseCredits(ctx context.Context, node, keyspace, tenant string, need int64) (granted, rest int64, err error)
	// ReturnCredits gives a node's unspent lease of a tenant back, after the spends that
	// were made from it were settled.
	ReturnCredits(ctx context.Context, node, keyspace, tenant string) error
	// DropLeases frees what node held when it last ran: nothing of it can be spent any more.
	// Called once, before the node leases anything.
	DropLeases(ctx context.Context, node string) error
	// Rehash replaces a secret's digest by its primary form. It writes no audit event, and no
	// change but one of ChangeSecret: the key is the same.
	Rehash(ctx context.Context, keyspace, secretID string, to apikey.Candidate) error
	// SetShown replaces what is shown of a secret, and of its key where the secret is its newest.
	// It writes no audit event, and no change but one of ChangeSecret. ErrNotFound where there is
	// no such secret.
	SetShown(ctx context.Context, keyspace, secretID, prefix, lastFour string) error
	// Peppers returns the check values of the peppers the store has seen, by pepper id;
	// SavePeppers adds to them.
	Peppers(ctx context.Context) (map[string]string, error)
	SavePeppers(ctx context.Context, checks map[string]string) error
	// TenantsByPlan counts the tenants, not deleted, that hold each plan of a keyspace.
	TenantsByPlan(ctx context.Context, keyspace string) (map[string]int64, error)
	// RenamePlan moves every tenant of one plan to another: `plan new { was old }`.
	RenamePlan(ctx context.Context, keyspace, from, to string) (int64, error)
	// Ping says whether the store answers now.
	Ping(ctx context.Context) error
	// Close releases the store. Later calls return an error; none panics.
	Close() error
}
