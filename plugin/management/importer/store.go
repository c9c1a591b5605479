package importer

import (
	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
)

// Tx reads and writes imported keys, in a transaction of the store.
type Tx interface {
	// KeyByDigest returns the key that has a secret with the digest.
	KeyByDigest(keyspace string, digest apikey.Digest) (*gateway.Key, error)
	// CountByHint counts the secrets whose digest begins with lead.
	CountByHint(keyspace string, lead apikey.Hint) (int, error)
	// ImportedAs returns the key that was imported under the mark; deleted ones too, since
	// importing a key again must not bring it back.
	ImportedAs(keyspace string, mark apikey.Mark) (*gateway.Key, error)
	// InsertImportMark notes under which mark a key was imported.
	InsertImportMark(keyspace string, mark apikey.Mark, keyID string) error
	// InsertImported is InsertKey, InsertSecret and InsertImportMark for a key that comes with all three. s.KeyID is not read.
	InsertImported(k *gateway.Key, s gateway.Secret, mark apikey.Mark) error
	// ExistingKeys returns which of the digests are secrets' and which of the marks keys were imported under.
	ExistingKeys(keyspace string, digests []apikey.Digest, marks []apikey.Mark) (map[apikey.Digest]bool, map[apikey.Mark]bool, error)
}
