package sqlstore

import (
	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
)

// KeyByDigest implements management.ImportTx.
func (t *tx) KeyByDigest(keyspace string, digest apikey.Digest) (*gateway.Key, error) {
	var k gateway.Key
	err := t.row(`SELECT `+keyColumns+` FROM secrets s JOIN keys k ON k.num = s.key_num JOIN tenants t ON t.num = k.tenant_num
		WHERE s.keyspace = $1 AND s.digest = $2`, []any{keyspace, digest[:]}, keyInto(&k)...)
	if err != nil {
		return nil, err
	}
	return &k, nil
}

// CountLed implements management.ImportTx.
func (t *tx) CountLed(keyspace string, lead apikey.Lead) (n int, err error) {
	from, to := ledDigests(lead)
	err = t.row(`SELECT count(*) FROM secrets WHERE keyspace = $1 AND digest >= $2 AND digest <= $3`,
		[]any{keyspace, from[:], to[:]}, &n)
	return n, err
}

// ImportedAs implements management.ImportTx.
func (t *tx) ImportedAs(keyspace string, mark apikey.Mark) (*gateway.Key, error) {
	var k gateway.Key
	err := t.row(`SELECT `+keyColumns+` FROM import_marks m JOIN keys k ON k.num = m.key_num JOIN tenants t ON t.num = k.tenant_num
		WHERE m.keyspace = $1 AND m.mark = $2`, []any{keyspace, mark[:]}, keyInto(&k)...)
	if err != nil {
		return nil, err
	}
	return &k, nil
}

// InsertMark implements management.ImportTx.
func (t *tx) InsertMark(keyspace string, mark apikey.Mark, keyID string) error {
	_, err := t.exec(`INSERT INTO import_marks (keyspace, mark, key_num)
		SELECT keyspace, $2, num FROM keys WHERE id = $3 AND keyspace = $1 ON CONFLICT (keyspace, mark) DO NOTHING`,
		keyspace, mark[:], keyID)
	return err
}
