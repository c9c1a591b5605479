package importer

import (
	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
)

// Tx reads and writes imported keys, in a transaction of the store.
type Tx interface {
	// KeyByDigest returns the key that has a secret with the digest.
	KeyByDigest(keyspace string, digest apikey.Digest) (*gateway.Key, error)
	// CountByHint counts the secrets whose digest begins with hint.
	CountByHint(keyspace string, hint apikey.Hint) (int, error)
	// ImportedAs returns the key that was imported with the mark, even a deleted one, so that an
	// import does not bring it back.
	ImportedAs(keyspace string, mark apikey.Mark) (*gateway.Key, error)
	// InsertImportMark stores the mark with which a key was imported.
	InsertImportMark(keyspace string, mark apikey.Mark, keyID string) error
	// InsertImported does the work of InsertKey, InsertSecret and InsertImportMark in one statement. It ignores s.KeyID.
	InsertImported(k *gateway.Key, s gateway.Secret, mark apikey.Mark) error
	// ExistingKeys returns the digests that belong to secrets, and the marks with which keys were
	// imported.
	ExistingKeys(keyspace string, digests []apikey.Digest, marks []apikey.Mark) (map[apikey.Digest]bool, map[apikey.Mark]bool, error)
}
