package management

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/management/events"
)

// ErrDigestTaken reports that the keyspace already holds the digest of a secret, because the same
// full key was issued or imported before.
var ErrDigestTaken = errors.New("the keyspace already holds this key")

// ErrSlugTaken reports that a tenant of the keyspace has the slug, or had it before it was
// deleted.
var ErrSlugTaken = errors.New("the slug is taken")

// ErrInsufficient reports that a balance, without the credits that nodes hold leased, is smaller
// than the amount to take.
var ErrInsufficient = errors.New("the balance does not cover this")

// Store runs transactions over the rows of management. This package holds the rules, and the store
// only the SQL.
type Store interface {
	// Update runs f in a read-write transaction and commits it if f returns nil. If Update returns
	// nil, the transaction is synced to disk. Otherwise nothing is stored, and the error is that
	// of f or wraps gateway.ErrStore. The store may run f more than once.
	Update(ctx context.Context, f func(Tx) error) error
	// View runs f in a read-only transaction, on a snapshot.
	View(ctx context.Context, f func(Tx) error) error
}

// Tx reads and writes rows in a transaction. Methods that read one row return gateway.ErrNotFound
// where there is none, and also return deleted tenants and keys, with DeletedAt set. Lists leave
// deleted ones out. A Tx must not be used concurrently, or after the transaction.
type Tx interface {
	Tenant(keyspace, slug string) (*gateway.Tenant, error) // Tenant ignores the case of slug.
	// LockTenant returns a tenant and locks it: until the transaction ends, no other transaction returns from LockTenant for
	// that tenant. A caller that compares a count or a balance with a bound before it writes must call LockTenant.
	LockTenant(keyspace, slug string) (*gateway.Tenant, error)
	Tenants(q TenantQuery) ([]*gateway.Tenant, error)
	// InsertTenant sets Version to 1. It ignores Credits: the balance begins at 0, so that the
	// ledger accounts for all of it (see AddCredits). It returns ErrSlugTaken for the slug of a
	// deleted tenant too.
	InsertTenant(*gateway.Tenant) error
	// UpdateTenant writes every field but Slug and Credits, and sets Version to the stored Version
	// + 1.
	UpdateTenant(*gateway.Tenant) error

	Key(keyspace, id string) (*gateway.Key, error)
	Keys(q KeyQuery) ([]*gateway.Key, error)
	// ActiveKeys counts a tenant's keys that are not disabled, expired, revoked or deleted.
	ActiveKeys(keyspace, tenant string, now time.Time) (int, error)
	// FreeAllowance returns an allowance of the tenant that no active key has, see gateway.Key; "" if there is none.
	FreeAllowance(keyspace, tenant string, now time.Time) (string, error)
	// AllowanceTaken reports whether another active key has the allowance of k.
	AllowanceTaken(k *gateway.Key, now time.Time) (bool, error)
	// InsertKey sets Version to 1. It returns gateway.ErrNotFound if the tenant does not exist.
	InsertKey(*gateway.Key) error
	// UpdateKey writes every field but Tenant and LastUsed*, and sets Version to the stored
	// Version + 1.
	UpdateKey(*gateway.Key) error

	Secrets(keyspace, keyID string) ([]gateway.Secret, error) // Secrets returns the secrets of a key, newest first.
	// InsertSecret returns ErrDigestTaken if the keyspace has the digest.
	InsertSecret(gateway.Secret) error
	// UpdateSecret writes every field but KeyID and LastUsed*.
	UpdateSecret(gateway.Secret) error
	DeleteSecrets(keyspace, keyID string) error

	// AddCredits adds e.Amount to a tenant's balance, sets e.Balance to the new balance, and
	// appends e to the ledger. It writes nothing and returns ErrInsufficient if the balance,
	// without what nodes hold leased, would be negative.
	AddCredits(e *LedgerEntry) error
	Ledger(q LedgerQuery) ([]LedgerEntry, error) // Ledger returns the movements of a balance, newest first.
	// TopUp returns a tenant's newest movement that raised its balance and was no refund.
	TopUp(keyspace, tenant string) (LedgerEntry, error)

	// ErasePersonal erases the personal data of a tenant that is being deleted or was deleted. It
	// empties Personal and Salt of the tenant's audit events and returns how many events had any.
	// It deletes the tenant's webhook events and the last requests of its keys. It empties names,
	// free text and addresses in the tenant's record, keys, secrets, tokens and ledger. The audit
	// chain stays valid, since it covers only PersonalHash. Without the salt nobody can guess a
	// name from that hash.
	ErasePersonal(keyspace, tenant string) (int64, error)

	// Change appends a change and returns its number.
	Change(kind gateway.ChangeKind, keyspace, id string) (int64, error)
	// Changes appends all changes of list in their order, and sets their numbers.
	Changes(list []gateway.Change) error

	// Identity returns the random name of the store, and the 16 random bytes of the key that
	// encrypts cursors. Both were chosen when the store was created.
	Identity() (id string, cursorKey []byte, err error)

	// Usage returns the stored counts of a subject's limits, for every period that is kept.
	Usage(subject string) ([]gateway.Usage, error)

	Token(keyspace, id string) (*Token, error)
	// LockToken returns a token and locks it: until the transaction ends, no other transaction returns from LockToken for that
	// token.
	LockToken(keyspace, id string) (*Token, error)
	// RevokeTokens revokes a token and all tokens that it issued, directly or indirectly. It
	// returns those that were not revoked before, oldest first.
	RevokeTokens(keyspace, id string, at time.Time) ([]*Token, error)

	NodeTx
	audit.Tx
	events.Tx
}

// TenantQuery selects tenants of a keyspace in the order of their slugs, without deleted ones.
type TenantQuery struct {
	Keyspace string
	After    string // After is the last slug of the page before.
	Plan     string // Plan selects the tenants of one plan; "" selects the tenants of all plans.
	Limit    int
}

// KeyQuery selects keys of a keyspace, newest first, without deleted ones.
type KeyQuery struct {
	Keyspace string
	Tenant   string         // Tenant selects the keys of one tenant; "" selects the keys of all tenants.
	Status   gateway.Status // Status selects keys by their status at the time Now; "" selects keys of every status.
	Prefix   string         // Prefix selects keys whose key_prefix begins with this text; "" selects all keys.
	// Search selects keys whose name contains this text, whose key_prefix begins with it, or whose id or last_four equals it. The
	// case of ASCII letters does not matter. "" selects all keys.
	Search string
	Before string // Before is the last id of the page before.
	Now    time.Time
	Limit  int
}

// LedgerEntry is one movement of a tenant's balance. The ledger has one entry per key and hour for
// what requests spend, and an entry for each other movement.
type LedgerEntry struct {
	Seq      int64
	Keyspace string
	Tenant   string
	KeyID    string // KeyID is the id of the key whose requests spent the credits. It is set for entries of usage.
	Kind     string // Kind is "add", "spend", "usage", "refund" or "shortfall".
	// Amount is negative if the balance fell. The Amount of a shortfall is what could not be
	// taken; a shortfall does not change the balance.
	Amount    int64
	Balance   int64 // Balance is the balance after the movement.
	Reference string
	Actor     string
	At        time.Time
}

// LedgerQuery selects movements of a tenant's balance, newest first.
type LedgerQuery struct {
	Keyspace, Tenant string
	Before           int64
	Limit            int
}

// Role returns the transaction as a T, the interface that another package declares for its own
// rows. It returns an error if the store does not implement T.
func Role[T any](tx Tx) (role T, err error) {
	role, ok := tx.(T)
	if !ok {
		err = fmt.Errorf("%w: it does not implement %s", gateway.ErrStore, reflect.TypeFor[T]())
	}
	return role, err
}
