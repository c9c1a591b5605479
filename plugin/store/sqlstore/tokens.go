package sqlstore

import (
	"database/sql"
	"errors"
	"time"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/auth"
)

// tokenColumns are the columns of the table tokens that tokenInto scans.
const tokenColumns = `id, keyspace, name, scopes, tenant, digest, algorithm, prefix, last_four, created_at, created_by,
	created_by_token, expires_at, last_used_at, last_used_ip, revoked_at`

func tokenInto(k *management.Token) []any {
	return []any{&k.ID, &k.Keyspace, &k.Name, wordsInto{&k.Scopes}, &k.Tenant, &k.Digest, &k.Algorithm, &k.Prefix, &k.LastFour,
		TimeInto(&k.CreatedAt), &k.CreatedBy, &k.CreatedByToken, TimeInto(&k.ExpiresAt), TimeInto(&k.LastUsedAt), &k.LastUsedIP,
		TimeInto(&k.RevokedAt)}
}

// Token implements management.Tx.
func (t *Tx) Token(keyspace, id string) (*management.Token, error) {
	return t.token(`WHERE id = $1 AND keyspace = $2`, id, keyspace)
}

// LockToken implements management.Tx.
func (t *Tx) LockToken(keyspace, id string) (*management.Token, error) {
	return t.token(`WHERE id = $1 AND keyspace = $2`+t.lockRow, id, keyspace)
}

func (t *Tx) token(where string, args ...any) (*management.Token, error) {
	var out management.Token
	if err := t.Row(`SELECT `+tokenColumns+` FROM tokens `+where, args, tokenInto(&out)...); err != nil {
		return nil, err
	}
	return &out, nil
}

// TokenByDigest implements auth.TokenTx.
func (t *Tx) TokenByDigest(digests []apikey.Candidate) (*management.Token, error) {
	for _, c := range digests {
		// The query also compares the algorithm, because digests under different peppers can't be compared.
		switch k, err := t.token(`WHERE digest = $1 AND algorithm = $2`, c.Digest[:], string(c.Algorithm)); {
		case err == nil:
			return k, nil
		case !errors.Is(err, gateway.ErrNotFound):
			return nil, err
		}
	}
	return nil, gateway.ErrNotFound
}

// Tokens implements auth.TokenTx.
func (t *Tx) Tokens(q auth.TokenQuery) ([]*management.Token, error) {
	var w where
	w.and("keyspace = " + w.arg(q.Keyspace))
	if q.Tenant != "" {
		w.and("tenant = " + w.arg(q.Tenant))
	}
	if q.Before != "" {
		w.and("num < (SELECT num FROM tokens WHERE id = " + w.arg(q.Before) + " AND keyspace = " + w.arg(q.Keyspace) + ")")
	}
	return t.tokens(w.text+` ORDER BY num DESC`+w.limit(q.Limit), w.args...)
}

func (t *Tx) tokens(where string, args ...any) (out []*management.Token, err error) {
	err = t.Rows(`SELECT `+tokenColumns+` FROM tokens`+where, args, func(rows *sql.Rows) error {
		var k management.Token
		out = append(out, &k)
		return rows.Scan(tokenInto(&k)...)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// InsertToken implements auth.TokenTx.
func (t *Tx) InsertToken(k *management.Token) error {
	_, err := t.Exec(`INSERT INTO tokens (`+tokenColumns+`)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)`,
		k.ID, k.Keyspace, k.Name, words(k.Scopes), k.Tenant, k.Digest, string(k.Algorithm), k.Prefix, k.LastFour,
		Micros(k.CreatedAt), k.CreatedBy, k.CreatedByToken, Micros(k.ExpiresAt), Micros(k.LastUsedAt), k.LastUsedIP, Micros(k.RevokedAt))
	return err
}

// createdTokens is the start of a query. It selects the id of a token, and the ids of all tokens that
// the token created, directly or through another token.
const createdTokens = `WITH RECURSIVE made (id) AS (
	SELECT id FROM tokens WHERE id = $1 AND keyspace = $2
	UNION
	SELECT t.id FROM tokens t JOIN made m ON t.created_by_token = m.id) `

// RevokeTokens implements management.Tx.
func (t *Tx) RevokeTokens(keyspace, id string, at time.Time) ([]*management.Token, error) {
	var out []*management.Token
	err := t.Rows(createdTokens+`SELECT `+tokenColumns+` FROM tokens WHERE id IN (SELECT id FROM made) AND revoked_at IS NULL ORDER BY num`+t.lockRow,
		[]any{id, keyspace}, func(rows *sql.Rows) error {
			var k management.Token
			out = append(out, &k)
			return rows.Scan(tokenInto(&k)...)
		})
	if err != nil {
		return nil, err
	}
	for _, k := range out {
		if _, err := t.Exec(`UPDATE tokens SET revoked_at = $2 WHERE id = $1`, k.ID, Micros(at)); err != nil {
			return nil, err
		}
		k.RevokedAt = at
	}
	return out, nil
}

// TouchToken implements auth.TokenTx.
func (t *Tx) TouchToken(id string, at time.Time, ip string) error {
	_, err := t.Exec(`UPDATE tokens SET last_used_at = $2, last_used_ip = $3
		WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $2)`, id, at.UnixMicro(), ip)
	return err
}

// RehashToken implements auth.TokenTx.
func (t *Tx) RehashToken(id string, to apikey.Candidate) error {
	_, err := t.Exec(`UPDATE tokens SET digest = $2, algorithm = $3 WHERE id = $1`, id, to.Digest[:], string(to.Algorithm))
	return err
}
