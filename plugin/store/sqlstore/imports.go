package sqlstore

import (
	"database/sql"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
)

// KeyByDigest implements importer.Tx.
func (t *Tx) KeyByDigest(keyspace string, digest apikey.Digest) (*gateway.Key, error) {
	var k gateway.Key
	err := t.Row(`SELECT `+keyColumns+` FROM secrets s JOIN keys k ON k.num = s.key_num JOIN tenants t ON t.num = k.tenant_num
		WHERE s.keyspace = $1 AND s.digest = $2`, []any{keyspace, digest[:]}, keyInto(&k)...)
	if err != nil {
		return nil, err
	}
	return &k, nil
}

// CountByHint implements importer.Tx.
func (t *Tx) CountByHint(keyspace string, hint apikey.Hint) (n int, err error) {
	from, to := digestRange(hint)
	err = t.Row(`SELECT count(*) FROM secrets WHERE keyspace = $1 AND digest >= $2 AND digest <= $3`,
		[]any{keyspace, from[:], to[:]}, &n)
	return n, err
}

// ImportedAs implements importer.Tx.
func (t *Tx) ImportedAs(keyspace string, mark apikey.Mark) (*gateway.Key, error) {
	var k gateway.Key
	err := t.Row(`SELECT `+keyColumns+` FROM import_marks m JOIN keys k ON k.num = m.key_num JOIN tenants t ON t.num = k.tenant_num
		WHERE m.keyspace = $1 AND m.mark = $2`, []any{keyspace, mark[:]}, keyInto(&k)...)
	if err != nil {
		return nil, err
	}
	return &k, nil
}

// ExistingKeys implements importer.Tx.
func (t *Tx) ExistingKeys(keyspace string, digests []apikey.Digest, marks []apikey.Mark) (map[apikey.Digest]bool, map[apikey.Mark]bool, error) {
	heldDigests, heldMarks := map[apikey.Digest]bool{}, map[apikey.Mark]bool{}
	err := existing(t, "secrets", "digest", keyspace, len(digests), func(i int) []byte { return digests[i][:] }, func(b []byte) {
		var d apikey.Digest
		copy(d[:], b)
		heldDigests[d] = true
	})
	if err == nil {
		err = existing(t, "import_marks", "mark", keyspace, len(marks), func(i int) []byte { return marks[i][:] }, func(b []byte) {
			var m apikey.Mark
			copy(m[:], b)
			heldMarks[m] = true
		})
	}
	return heldDigests, heldMarks, err
}

// existing calls f with each of the n values that a column already holds.
func existing(t *Tx, table, column, keyspace string, n int, value func(int) []byte, f func([]byte)) error {
	for from := 0; from < n; from += manyAtOnce {
		var w where
		w.and("keyspace = " + w.arg(keyspace))
		w.and(column + " IN (" + w.list(min(manyAtOnce, n-from), func(i int) any { return value(from + i) }) + ")")
		if err := t.Rows(`SELECT `+column+` FROM `+table+w.text, w.args, func(rows *sql.Rows) error {
			var b []byte
			err := rows.Scan(&b)
			f(b)
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// InsertImported implements importer.Tx.
func (t *Tx) InsertImported(k *gateway.Key, s gateway.Secret, mark apikey.Mark) error {
	num, err := t.insertKey(k)
	if err != nil {
		return err
	}
	if err := t.insertSecret(num, s); err != nil {
		return err
	}
	_, err = t.Exec(`INSERT INTO import_marks (keyspace, mark, key_num) VALUES ($1, $2, $3) ON CONFLICT (keyspace, mark) DO NOTHING`,
		k.Keyspace, mark[:], num)
	return err
}

// InsertImportMark implements importer.Tx.
func (t *Tx) InsertImportMark(keyspace string, mark apikey.Mark, keyID string) error {
	_, err := t.Exec(`INSERT INTO import_marks (keyspace, mark, key_num)
		SELECT keyspace, $2, num FROM keys WHERE id = $3 AND keyspace = $1 ON CONFLICT (keyspace, mark) DO NOTHING`,
		keyspace, mark[:], keyID)
	return err
}
