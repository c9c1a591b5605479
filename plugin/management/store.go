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

// ErrDigestTaken says that a secret's digest is already in the keyspace: the same full
// key was issued or imported before.
var ErrDigestTaken = errors.New("the keyspace already holds this key")

// ErrSlugTaken says that a tenant of the keyspace has that slug, or had it before it
// was deleted.
var ErrSlugTaken = errors.New("the slug is taken")

// ErrInsufficient says that a balance, less what nodes hold leased of it, does not
// cover what was to be taken.
var ErrInsufficient = errors.New("the balance does not cover this")

// Store is what management needs of a store: transactions over rows. The rules stand
// in this package, the SQL in the store.
type Store interface {
	// Update runs f in one read-write transaction and commits when f returns nil. When
	// Update returns nil the transaction is synced to disk; otherwise nothing of it happened,
	// and the error is f's own or wraps gateway.ErrStore. f may run more than once.
	Update(ctx context.Context, f func(Tx) error) error
	// View runs f in one read-only transaction, on a snapshot.
	View(ctx context.Context, f func(Tx) error) error
}

// Tx reads and writes rows. Reads return gateway.ErrNotFound where there is none;
// deleted tenants and keys are returned, with DeletedAt set, by the single reads only.
// Not for concurrent use; not to be kept after the transaction.
type Tx interface {
	Tenant(keyspace, slug string) (*gateway.Tenant, error) // without regard to case
	// LockTenant is Tenant, and until the transaction ends no other reads it through LockTenant:
	// what counts and then writes (caps, balances) goes through it.
	LockTenant(keyspace, slug string) (*gateway.Tenant, error)
	Tenants(q TenantQuery) ([]*gateway.Tenant, error)
	// InsertTenant sets Version to 1. The balance begins at 0 whatever Credits says, so that the
	// ledger accounts for all of it: see AddCredits. ErrSlugTaken also where a deleted tenant had the slug.
	InsertTenant(*gateway.Tenant) error
	// UpdateTenant writes every field but Slug and Credits, and sets Version to the stored one + 1.
	UpdateTenant(*gateway.Tenant) error

	Key(keyspace, id string) (*gateway.Key, error)
	Keys(q KeyQuery) ([]*gateway.Key, error)
	// ActiveKeys counts a tenant's keys that are not disabled, expired, revoked or deleted.
	ActiveKeys(keyspace, tenant string, now time.Time) (int, error)
	// InsertKey sets Version to 1. ErrNotFound where there is no such tenant.
	InsertKey(*gateway.Key) error
	// UpdateKey writes every field but Tenant and LastUsed*, and sets Version to the stored one + 1.
	UpdateKey(*gateway.Key) error

	Secrets(keyspace, keyID string) ([]gateway.Secret, error) // newest first
	// InsertSecret fails with ErrDigestTaken where the keyspace has that digest.
	InsertSecret(gateway.Secret) error
	// UpdateSecret writes every field but KeyID and LastUsed*.
	UpdateSecret(gateway.Secret) error
	DeleteSecrets(keyspace, keyID string) error

	// AddCredits changes a tenant's balance by e.Amount and appends e to the ledger,
	// with e.Balance set to the new balance. ErrInsufficient, and nothing written, where the balance
	// less what nodes hold leased would fall below zero.
	AddCredits(e *LedgerEntry) error
	Ledger(q LedgerQuery) ([]LedgerEntry, error) // newest first
	// TopUp returns a tenant's newest movement that raised its balance other than by a refund.
	TopUp(keyspace, tenant string) (LedgerEntry, error)

	// ErasePersonal empties Personal and Salt of every event of a tenant and returns how many
	// had any, removes what webhooks were told of the tenant and its keys' last requests, and
	// empties what a person wrote or can be told by in the records of the tenant, its keys, secrets
	// and tokens and in its ledger; it is for tenants that are, or are being, deleted. The chain still verifies, since it holds only PersonalHash; without the
	// salt nobody can try names against that.
	ErasePersonal(keyspace, tenant string) (int64, error)

	// Change appends to the change sequence and returns the seq.
	Change(kind gateway.ChangeKind, keyspace, id string) (int64, error)
	// Changes is Change for each of list, in its order, and notes the seqs in it.
	Changes(list []gateway.Change) error

	// Identity returns what tells the store from others, and 16 bytes under which numbers
	// of sequences are written in cursors. Both were chosen at random when it was made.
	Identity() (id string, cursorKey []byte, err error)

	// Usage returns a subject's durable counts in every period that is still kept.
	Usage(subject string) ([]gateway.Usage, error)

	Token(keyspace, id string) (*Token, error)
	// LockToken is Token. Until the transaction ends, no other transaction returns from LockToken for that token.
	LockToken(keyspace, id string) (*Token, error)
	// RevokeTokens revokes the token and all tokens that it issued, directly or not, and
	// returns those that were not revoked before, oldest first.
	RevokeTokens(keyspace, id string, at time.Time) ([]*Token, error)

	NodeTx
	audit.Tx
	events.Tx
}

// TenantQuery selects tenants of a keyspace, by slug ascending, deleted ones left out.
type TenantQuery struct {
	Keyspace string
	After    string // slug of the last one seen
	Plan     string // "" for all
	Limit    int
}

// KeyQuery selects keys of a keyspace, newest first, deleted ones left out.
type KeyQuery struct {
	Keyspace string
	Tenant   string         // "" for all
	Status   gateway.Status // "" for all, judged at Now
	Prefix   string         // of key_prefix, "" for all
	// Search is in the name, or begins key_prefix, or is the id or last_four, without regard to
	// the case of ASCII; "" for all.
	Search string
	Before string // id of the last one seen
	Now    time.Time
	Limit  int
}

// LedgerEntry is one movement of a tenant's balance. What requests spend is added up
// in one entry per key and hour; everything else has an entry of its own.
type LedgerEntry struct {
	Seq      int64
	Keyspace string
	Tenant   string
	KeyID    string // of usage
	Kind     string // "add", "spend", "usage", "refund", "shortfall"
	// Amount is negative where the balance fell. Of a shortfall, which changes no
	// balance, it is what could not be taken.
	Amount    int64
	Balance   int64 // after it
	Reference string
	Actor     string
	At        time.Time
}

// LedgerQuery selects a tenant's movements, newest first.
type LedgerQuery struct {
	Keyspace, Tenant string
	Before           int64
	Limit            int
}

// Role returns the transaction as T, the interface that another package declares for its own rows. It fails where the
// store does not implement T.
func Role[T any](tx Tx) (role T, err error) {
	role, ok := tx.(T)
	if !ok {
		err = fmt.Errorf("%w: it does not implement %s", gateway.ErrStore, reflect.TypeFor[T]())
	}
	return role, err
}
