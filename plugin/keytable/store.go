package keytable

import (
	"context"
	"errors"

	"github.com/keygate-dev/keygate/plugin/apikey"
)

// ErrNotFound means that the store has no such row. It is an answer, not a failure.
var ErrNotFound = errors.New("not found")

// ErrStore is wrapped by every error of a store that could not answer. Such an error does not show whether a key exists.
var ErrStore = errors.New("store unavailable")

// ChangeKind is the kind of object that a Change is about.
type ChangeKind string

const (
	ChangeKey    ChangeKind = "key"
	ChangeTenant ChangeKind = "tenant"
	// ChangeToken is a change of a management token. No check of a request uses it.
	ChangeToken ChangeKind = "token"
	// ChangeSecret is a change of the form in which secrets of a key are stored. The key stays the
	// same.
	ChangeSecret ChangeKind = "secret"
)

// Change is one row of the store's change sequence. Every management write appends, in its own
// transaction, one for each key or tenant whose cached entries it invalidates.
type Change struct {
	// Seq rises with every change. Changes become visible in its order.
	Seq      int64
	Kind     ChangeKind
	Keyspace string
	// ID is the key's or token's id, or the tenant's slug.
	ID string
	// Mark distinguishes the change from one with the same Seq in another store, or in an older
	// copy of this store that replaced it. The store's method Changes sets it.
	Mark int64
}

// Store is the part of a store that a Table uses. Every method may block within ctx, may be called
// concurrently, and returns errors that wrap ErrNotFound or ErrStore.
type Store interface {
	// Lookup returns the record of the first of digests that some secret of the keyspace has. It
	// returns ErrNotFound where none has, or its key or tenant was deleted. The first use of a key
	// needs only this query.
	Lookup(ctx context.Context, keyspace string, digests []apikey.Candidate) (*Record, error)
	// LookupSecret is Lookup for a secret whose id is known, in any form in which it is stored.
	LookupSecret(ctx context.Context, keyspace, secretID string) (*Record, error)
	// SecretsByHint returns up to limit secrets of the keyspace whose digest begins with hint,
	// such as those of keys imported as bcrypt. It leaves out secrets of deleted keys.
	SecretsByHint(ctx context.Context, keyspace string, hint apikey.Hint, limit int) ([]Secret, error)
	// Digests calls yield with the stored digest of every secret of every keyspace, in no
	// order, until yield returns false. It must not block writers.
	Digests(ctx context.Context, yield func(keyspace string, digest []byte) bool) error
	// CountSecrets returns about how many digests Digests yields.
	CountSecrets(ctx context.Context) (int64, error)
	// SecretDigests returns the stored digests of the secrets of keys, in no order. A key that
	// does not exist has none.
	SecretDigests(ctx context.Context, keyspace string, keyIDs ...string) ([][]byte, error)
	// Rehash replaces a secret's digest by the primary form of the digest. It writes no audit event. Its only change is one of
	// the kind ChangeSecret, because the key stays the same.
	Rehash(ctx context.Context, keyspace, secretID string, to apikey.Candidate) error
	// SetShown replaces the parts of a secret that may be shown. If the secret is the newest of its key, it replaces the shown
	// parts of the key too. SetShown writes no audit event. Its only change is one of the kind ChangeSecret. It returns
	// ErrNotFound if there is no such secret.
	SetShown(ctx context.Context, keyspace, secretID, prefix, lastFour string) error
}
