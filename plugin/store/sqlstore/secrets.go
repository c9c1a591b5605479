package sqlstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
)

// secretColumns are the columns that secretInto scans. The query must name the tables secrets AS s and
// keys AS k.
const secretColumns = `s.id, k.id, s.keyspace, s.digest, s.algorithm, s.prefix, s.last_four, s.created_at, s.expires_at, s.last_used_at, s.last_used_ip`

func secretInto(s *gateway.Secret) []any {
	return []any{&s.ID, &s.KeyID, &s.Keyspace, &s.Digest, &s.Algorithm, &s.Prefix, &s.LastFour,
		TimeInto(&s.CreatedAt), TimeInto(&s.ExpiresAt), TimeInto(&s.LastUsedAt), &s.LastUsedIP}
}

const (
	recordSQL = `SELECT ` + secretColumns + `, ` + keyColumns + `, ` + tenantColumns + `
	FROM secrets s JOIN keys k ON k.num = s.key_num JOIN tenants t ON t.num = k.tenant_num
	WHERE k.deleted_at IS NULL AND t.deleted_at IS NULL AND s.keyspace = $1`
	lookupSQL       = recordSQL + ` AND s.digest = $2`
	lookupSecretSQL = recordSQL + ` AND s.id = $2`
)

// recordInto scans a row that the query recordSQL returned.
func recordInto(row *sql.Row) (*gateway.Record, error) {
	rec := &gateway.Record{Key: new(gateway.Key), Tenant: new(gateway.Tenant)}
	dest := append(secretInto(&rec.Secret), keyInto(rec.Key)...)
	return rec, row.Scan(append(dest, tenantInto(rec.Tenant)...)...)
}

// Lookup implements gateway.Store. It runs one query per candidate digest, in order, until a query
// finds a key.
func (s *Store) Lookup(ctx context.Context, keyspace string, digests []apikey.Candidate) (*gateway.Record, error) {
	var out *gateway.Record
	err := s.Query(ctx, "looking up a key", func(f *Conns) error {
		for i := range digests {
			rec, err := recordInto(f.hot.lookup.QueryRowContext(ctx, keyspace, digests[i].Digest[:]))
			if err == nil {
				out = rec
				return nil
			}
			if !errors.Is(err, sql.ErrNoRows) {
				return err
			}
		}
		return gateway.ErrNotFound
	})
	return out, err
}

// LookupSecret implements gateway.Store.
func (s *Store) LookupSecret(ctx context.Context, keyspace, secretID string) (*gateway.Record, error) {
	var out *gateway.Record
	err := s.Query(ctx, "looking up a key", func(f *Conns) error {
		rec, err := recordInto(f.Read.QueryRowContext(ctx, lookupSecretSQL, keyspace, secretID))
		if errors.Is(err, sql.ErrNoRows) {
			return gateway.ErrNotFound
		}
		out = rec
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// SecretsByHint implements gateway.Store. It reads a range of the index on digests.
func (s *Store) SecretsByHint(ctx context.Context, keyspace string, hint apikey.Hint, limit int) ([]gateway.Secret, error) {
	from, to := digestRange(hint)
	var out []gateway.Secret
	err := s.Query(ctx, "looking for imported keys", func(f *Conns) error {
		out = nil
		rows, err := f.Read.QueryContext(ctx, `SELECT `+secretColumns+` FROM secrets s JOIN keys k ON k.num = s.key_num
			WHERE s.keyspace = $1 AND s.digest >= $2 AND s.digest <= $3 AND k.deleted_at IS NULL LIMIT $4`, keyspace, from[:], to[:], limit)
		return Each(rows, err, func(rows *sql.Rows) error {
			out = append(out, gateway.Secret{})
			return rows.Scan(secretInto(&out[len(out)-1])...)
		})
	})
	return out, err
}

// digestRange returns the least and the greatest digest that begin with hint.
func digestRange(hint apikey.Hint) (from, to apikey.Digest) {
	copy(from[:], hint[:])
	copy(to[:], hint[:])
	for i := len(hint); i < len(to); i++ {
		to[i] = 0xff
	}
	return from, to
}

const keyDigestsSQL = `SELECT s.digest FROM secrets s JOIN keys k ON k.num = s.key_num WHERE k.id = $1 AND k.keyspace = $2`

// SecretDigests implements gateway.Store.
func (s *Store) SecretDigests(ctx context.Context, keyspace string, keyIDs ...string) ([][]byte, error) {
	var out [][]byte
	err := s.Query(ctx, "reading keys' digests", func(f *Conns) error {
		out = out[:0]
		if len(keyIDs) == 1 {
			rows, err := f.hot.keyDigests.QueryContext(ctx, keyIDs[0], keyspace)
			return Each(rows, err, func(rows *sql.Rows) error {
				var d []byte
				err := rows.Scan(&d)
				out = append(out, d)
				return err
			})
		}
		for ids := range slices.Chunk(keyIDs, manyAtOnce) {
			var w where
			w.and("k.id IN (" + w.list(len(ids), func(i int) any { return ids[i] }) + ")")
			// The keyspace is not part of the query, because SQLite would prefer an index that begins with the
			// keyspace, and read all of the keyspace's keys.
			rows, err := f.Read.QueryContext(ctx, `SELECT k.keyspace, s.digest FROM keys k JOIN secrets s ON s.key_num = k.num`+w.text, w.args...)
			if err := Each(rows, err, func(rows *sql.Rows) error {
				var of string
				var d []byte
				if err := rows.Scan(&of, &d); err != nil {
					return err
				}
				if of == keyspace {
					out = append(out, d)
				}
				return nil
			}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// CountSecrets implements gateway.Store. It returns the highest row number, because counting is slow.
// So the result is too high after deletions.
func (s *Store) CountSecrets(ctx context.Context) (n int64, err error) {
	err = s.Query(ctx, "counting keys", func(f *Conns) error {
		return f.Read.QueryRowContext(ctx, `SELECT coalesce(max(num), 0) FROM secrets`).Scan(&n)
	})
	return n, err
}

// digestsAtOnce is the number of digests after which the reading loop checks whether it must stop.
const digestsAtOnce = 4096

// Digests implements gateway.Store. It reads one keyspace after the other from the index on digests
// alone. Each keyspace is read as of one moment. A million digests take less than a second.
//
// If the database must be opened again while Digests runs, Digests stops with an error, so that the
// old connections can be closed. Digests has then called yield for only some of the digests.
func (s *Store) Digests(ctx context.Context, yield func(keyspace string, digest []byte) bool) error {
	err := s.db.Stream(ctx, func(f *Conns) error {
		conn, err := f.Read.Conn(ctx)
		if err != nil {
			return err
		}
		defer conn.Close()
		for keyspace := ""; ; {
			// One look-up in the index finds the next keyspace.
			var next sql.NullString
			if err := conn.QueryRowContext(ctx, `SELECT min(keyspace) FROM secrets WHERE keyspace > $1`, keyspace).Scan(&next); err != nil {
				return err
			}
			if !next.Valid {
				return nil
			}
			keyspace = next.String
			more := false
			if err := conn.Raw(func(c any) (err error) {
				more, err = f.digests(ctx, c.(driver.QueryerContext), keyspace, yield)
				return err
			}); err != nil || !more {
				return err
			}
		}
	})
	return s.Explain("reading all digests", err)
}

// digests calls yield for the digests of one keyspace, and reports whether yield wants more. It calls
// the driver directly, because database/sql would copy and convert every value again.
func (f *Conns) digests(ctx context.Context, c driver.QueryerContext, keyspace string, yield func(string, []byte) bool) (more bool, err error) {
	rows, err := c.QueryContext(ctx, `SELECT digest FROM secrets WHERE keyspace = $1`, []driver.NamedValue{{Ordinal: 1, Value: keyspace}})
	if err != nil {
		return false, err
	}
	defer rows.Close()
	row := make([]driver.Value, 1)
	for n := 1; ; n++ {
		if n%digestsAtOnce == 0 {
			select {
			case <-ctx.Done():
				return false, ctx.Err()
			case <-f.Stop:
				return false, errReopened
			default:
			}
		}
		if err := rows.Next(row); errors.Is(err, io.EOF) {
			return true, nil
		} else if err != nil {
			return false, err
		}
		digest, ok := row[0].([]byte)
		if !ok {
			return false, fmt.Errorf("a digest was read as a %T", row[0])
		}
		if !yield(keyspace, digest) {
			return false, nil
		}
	}
}

// Rehash implements gateway.Store. It returns gateway.ErrNotFound if the secret does not exist.
func (s *Store) Rehash(ctx context.Context, keyspace, secretID string, to apikey.Candidate) error {
	return s.Write(ctx, "rehashing a key", func(t *Tx) error {
		n, err := t.Exec(`UPDATE secrets SET digest = $3, algorithm = $4 WHERE id = $1 AND keyspace = $2`,
			secretID, keyspace, to.Digest[:], string(to.Algorithm))
		if err == nil && n == 0 {
			err = gateway.ErrNotFound
		}
		if err != nil {
			return err
		}
		// The change makes other nodes update their copies of the secret, which would keep the old digest. A
		// node without the old pepper could no longer find the secret by its old digest.
		return t.secretChanged(keyspace, secretID)
	})
}

// SetShown implements gateway.Store.
func (s *Store) SetShown(ctx context.Context, keyspace, secretID, prefix, lastFour string) error {
	return s.Write(ctx, "storing the visible parts of a key", func(t *Tx) error {
		n, err := t.SetShown(keyspace, secretID, prefix, lastFour)
		if err == nil && n == 0 {
			err = gateway.ErrNotFound
		}
		if err != nil {
			return err
		}
		return t.secretChanged(keyspace, secretID)
	})
}

// SetShown replaces the visible parts of a secret. If the secret is its key's newest, SetShown also
// replaces the key's visible parts. It returns how many secrets it found: 0 or 1.
func (t *Tx) SetShown(keyspace, secretID, prefix, lastFour string) (int64, error) {
	n, err := t.Exec(`UPDATE secrets SET prefix = $3, last_four = $4 WHERE id = $1 AND keyspace = $2`, secretID, keyspace, prefix, lastFour)
	if err != nil || n == 0 {
		return n, err
	}
	_, err = t.Exec(`UPDATE keys SET prefix = $3, last_four = $4 WHERE num = (SELECT key_num FROM secrets WHERE id = $1 AND keyspace = $2)
		AND $1 = (SELECT s.id FROM secrets s WHERE s.key_num = keys.num ORDER BY s.num DESC LIMIT 1)`, secretID, keyspace, prefix, lastFour)
	return n, err
}

// secretChanged appends a change to the change sequence, so that other nodes update their copies of the
// secret. It does nothing if the database is not shared, because there are no other nodes.
func (t *Tx) secretChanged(keyspace, secretID string) error {
	if !t.d.Shared {
		return nil
	}
	var key string
	if err := t.Row(`SELECT k.id FROM keys k JOIN secrets s ON s.key_num = k.num WHERE s.id = $1 AND s.keyspace = $2`,
		[]any{secretID, keyspace}, &key); err != nil {
		return err
	}
	_, err := t.Change(gateway.ChangeSecret, keyspace, key)
	return err
}

// Secrets implements management.Tx.
func (t *Tx) Secrets(keyspace, keyID string) ([]gateway.Secret, error) {
	var out []gateway.Secret
	err := t.Rows(`SELECT `+secretColumns+` FROM secrets s JOIN keys k ON k.num = s.key_num
		WHERE k.id = $1 AND k.keyspace = $2 ORDER BY s.num DESC`, []any{keyID, keyspace},
		func(rows *sql.Rows) error {
			out = append(out, gateway.Secret{})
			return rows.Scan(secretInto(&out[len(out)-1])...)
		})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// InsertSecret implements management.Tx. It returns gateway.ErrNotFound if the key does not exist.
func (t *Tx) InsertSecret(s gateway.Secret) error {
	var key int64
	if err := t.Row(`SELECT num FROM keys WHERE id = $1 AND keyspace = $2`, []any{s.KeyID, s.Keyspace}, &key); err != nil {
		return err
	}
	return t.insertSecret(key, s)
}

// insertSecret inserts a secret of the key with the row number key.
func (t *Tx) insertSecret(key int64, s gateway.Secret) error {
	n, err := t.Exec(`INSERT INTO secrets (id, key_num, keyspace, digest, algorithm, prefix, last_four, created_at, expires_at, last_used_at, last_used_ip)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (keyspace, digest) DO NOTHING`,
		s.ID, key, s.Keyspace, s.Digest, string(s.Algorithm), s.Prefix, s.LastFour,
		Micros(s.CreatedAt), Micros(s.ExpiresAt), Micros(s.LastUsedAt), s.LastUsedIP)
	if err == nil && n == 0 {
		err = management.ErrDigestTaken
	}
	return err
}

// UpdateSecret implements management.Tx.
func (t *Tx) UpdateSecret(s gateway.Secret) error {
	n, err := t.Exec(`UPDATE secrets SET digest = $3, algorithm = $4, prefix = $5, last_four = $6, created_at = $7, expires_at = $8
		WHERE id = $1 AND keyspace = $2`,
		s.ID, s.Keyspace, s.Digest, string(s.Algorithm), s.Prefix, s.LastFour, Micros(s.CreatedAt), Micros(s.ExpiresAt))
	if err == nil && n == 0 {
		err = gateway.ErrNotFound
	}
	return err
}

// DeleteSecrets implements management.Tx.
func (t *Tx) DeleteSecrets(keyspace, keyID string) error {
	_, err := t.Exec(`DELETE FROM secrets WHERE key_num = (SELECT num FROM keys WHERE id = $1 AND keyspace = $2)`, keyID, keyspace)
	return err
}
