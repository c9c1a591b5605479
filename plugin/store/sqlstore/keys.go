package sqlstore

import (
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
)

// keyColumns are the columns that keyInto scans. The query must name the tables keys AS k and
// tenants AS t.
const keyColumns = `k.id, k.keyspace, t.slug, k.name, k.description, k.environment, k.scopes, k.disabled,
	k.revoked_at, k.deleted_at, k.expires_at, k.allowed_ips, k.rate, k.quota, k.concurrency, k.credits_limit,
	k.metadata, k.created_at, k.created_by, k.updated_at, k.last_used_at, k.last_used_ip, k.prefix, k.last_four, k.version, k.allowance`

func keyInto(k *gateway.Key) []any {
	return []any{&k.ID, &k.Keyspace, &k.Tenant, &k.Name, &k.Description, &k.Environment, wordsInto{&k.Scopes}, &k.Disabled,
		TimeInto(&k.RevokedAt), TimeInto(&k.DeletedAt), TimeInto(&k.ExpiresAt), prefixesInto{&k.AllowedIPs},
		&k.Rate, &k.Quota, &k.Concurrency, &k.CreditsLimit,
		jsonInto{&k.Metadata}, TimeInto(&k.CreatedAt), &k.CreatedBy, TimeInto(&k.UpdatedAt),
		TimeInto(&k.LastUsedAt), &k.LastUsedIP, &k.Prefix, &k.LastFour, &k.Version, &k.Allowance}
}

// Key implements management.Tx.
func (t *Tx) Key(keyspace, id string) (*gateway.Key, error) {
	var k gateway.Key
	err := t.Row(`SELECT `+keyColumns+` FROM keys k JOIN tenants t ON t.num = k.tenant_num
		WHERE k.id = $1 AND k.keyspace = $2`, []any{id, keyspace}, keyInto(&k)...)
	if err != nil {
		return nil, err
	}
	return &k, nil
}

// narrowPrefix is the least length, in characters, of a prefix that only few keys share. Finding and
// sorting these few keys is faster than reading all keys in order.
const narrowPrefix = 12

// Keys implements management.Tx. It sorts keys by the order in which their rows were inserted. It does
// not sort by CreatedAt, because imported keys with older dates would then disturb paging.
func (t *Tx) Keys(q management.KeyQuery) ([]*gateway.Key, error) {
	var w where
	order := "k.num"
	w.and("k.keyspace = " + w.arg(q.Keyspace))
	w.and("k.deleted_at IS NULL")
	if q.Tenant != "" {
		w.and("k.tenant_num = (SELECT num FROM tenants WHERE keyspace = " + w.arg(q.Keyspace) + " AND folded = " + w.arg(Fold(q.Tenant)) + ")")
	}
	if n := utf8.RuneCountInString(q.Prefix); n > 0 {
		if n >= narrowPrefix {
			// The condition is a range, so that the database can use the index on the prefix. No text sorts after
			// U+10FFFF. The "+ 0" keeps the database from choosing another index for the order.
			w.and("k.prefix >= " + w.arg(q.Prefix) + " AND k.prefix <= " + w.arg(q.Prefix+"\U0010FFFF"))
			order = "k.num + 0"
		} else {
			w.and("substr(k.prefix, 1, " + w.arg(int64(n)) + ") = " + w.arg(q.Prefix))
		}
	}
	if q.Search != "" {
		w.and("(lower(k.name) LIKE lower(" + w.arg("%"+likeText(q.Search)+"%") + ") ESCAPE '!' OR lower(k.prefix) LIKE lower(" + w.arg(likeText(q.Search)+"%") +
			") ESCAPE '!' OR k.id = " + w.arg(q.Search) + " OR k.last_four = " + w.arg(q.Search) + ")")
	}
	now := q.Now.UnixMicro()
	switch q.Status {
	case "":
	case gateway.StatusRevoked:
		w.and("k.revoked_at IS NOT NULL")
	case gateway.StatusDisabled:
		w.and("k.revoked_at IS NULL AND k.disabled = 1")
	case gateway.StatusExpired:
		w.and("k.revoked_at IS NULL AND k.disabled = 0 AND k.expires_at <= " + w.arg(now))
	case gateway.StatusActive:
		w.and("k.revoked_at IS NULL AND k.disabled = 0 AND (k.expires_at IS NULL OR k.expires_at > " + w.arg(now) + ")")
	default:
		return nil, nil
	}
	if q.Before != "" {
		w.and("k.num < (SELECT num FROM keys WHERE id = " + w.arg(q.Before) + " AND keyspace = " + w.arg(q.Keyspace) + ")")
	}
	var out []*gateway.Key
	err := t.Rows(`SELECT `+keyColumns+` FROM keys k JOIN tenants t ON t.num = k.tenant_num`+
		w.text+` ORDER BY `+order+` DESC`+w.limit(q.Limit), w.args,
		func(rows *sql.Rows) error {
			var k gateway.Key
			out = append(out, &k)
			return rows.Scan(keyInto(&k)...)
		})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// likeText escapes the special characters of s for a LIKE pattern with ESCAPE '!'.
func likeText(s string) string {
	return strings.NewReplacer("!", "!!", "%", "!%", "_", "!_").Replace(s)
}

// ActiveKeys implements management.Tx. The query uses an index that holds only active keys.
func (t *Tx) ActiveKeys(keyspace, tenant string, now time.Time) (n int, err error) {
	err = t.Row(`SELECT count(*) FROM keys WHERE tenant_num = (SELECT num FROM tenants WHERE keyspace = $1 AND folded = $2)
		AND disabled = 0 AND revoked_at IS NULL AND deleted_at IS NULL AND (expires_at IS NULL OR expires_at > $3)`,
		[]any{keyspace, Fold(tenant), now.UnixMicro()}, &n)
	return n, err
}

// activeKey is true for an active key, in a query that names the table keys AS h and passes the time as $3.
const activeKey = `h.disabled = 0 AND h.revoked_at IS NULL AND h.deleted_at IS NULL AND (h.expires_at IS NULL OR h.expires_at > $3)`

// FreeAllowance implements management.Tx. The query reads the tenant's keys from the newest on, and ends at the first whose
// allowance is free.
func (t *Tx) FreeAllowance(keyspace, tenant string, now time.Time) (allowance string, err error) {
	err = t.Row(`SELECT k.own FROM (SELECT num, CASE WHEN allowance = '' THEN id ELSE allowance END AS own FROM keys
			WHERE tenant_num = (SELECT num FROM tenants WHERE keyspace = $1 AND folded = $2)
			AND NOT (disabled = 0 AND revoked_at IS NULL AND deleted_at IS NULL AND (expires_at IS NULL OR expires_at > $3))) k
		WHERE NOT EXISTS (SELECT 1 FROM keys h WHERE h.allowance = k.own AND h.allowance <> '' AND `+activeKey+`)
		AND NOT EXISTS (SELECT 1 FROM keys h WHERE h.id = k.own AND h.allowance = '' AND `+activeKey+`)
		ORDER BY k.num DESC LIMIT 1`, []any{keyspace, Fold(tenant), now.UnixMicro()}, &allowance)
	if errors.Is(err, gateway.ErrNotFound) {
		return "", nil
	}
	return allowance, err
}

// AllowanceTaken implements management.Tx.
func (t *Tx) AllowanceTaken(k *gateway.Key, now time.Time) (taken bool, err error) {
	var n int
	err = t.Row(`SELECT (SELECT count(*) FROM keys h WHERE h.allowance = $1 AND h.allowance <> '' AND h.id <> $2 AND `+activeKey+`)
		+ (SELECT count(*) FROM keys h WHERE h.id = $1 AND h.allowance = '' AND h.id <> $2 AND `+activeKey+`)`,
		[]any{k.AllowanceID(), k.ID, now.UnixMicro()}, &n)
	return n > 0, err
}

// InsertKey implements management.Tx.
func (t *Tx) InsertKey(k *gateway.Key) error {
	_, err := t.insertKey(k)
	return err
}

// insertKey inserts a key and returns the number of its row.
func (t *Tx) insertKey(k *gateway.Key) (num int64, err error) {
	err = t.Row(`INSERT INTO keys (id, keyspace, tenant_num, name, description, environment, scopes, disabled,
		revoked_at, deleted_at, expires_at, allowed_ips, rate, quota, concurrency, credits_limit,
		metadata, created_at, created_by, updated_at, last_used_at, last_used_ip, prefix, last_four, version, allowance)
		SELECT $1, keyspace, num, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, 1, $25
		FROM tenants WHERE keyspace = $2 AND folded = $3 RETURNING num`,
		[]any{k.ID, k.Keyspace, Fold(k.Tenant), k.Name, k.Description, k.Environment, words(k.Scopes), Flag(k.Disabled),
			Micros(k.RevokedAt), Micros(k.DeletedAt), Micros(k.ExpiresAt), prefixes(k.AllowedIPs),
			k.Rate, k.Quota, k.Concurrency, k.CreditsLimit,
			jsonText(k.Metadata), Micros(k.CreatedAt), k.CreatedBy, Micros(k.UpdatedAt),
			Micros(k.LastUsedAt), k.LastUsedIP, k.Prefix, k.LastFour, k.Allowance}, &num)
	switch {
	case errors.Is(err, gateway.ErrNotFound):
		return 0, fmt.Errorf("tenant %s: %w", k.Tenant, gateway.ErrNotFound)
	case err != nil:
		return 0, err
	}
	k.Version = 1
	return num, nil
}

// UpdateKey implements management.Tx.
func (t *Tx) UpdateKey(k *gateway.Key) error {
	return t.Row(`UPDATE keys SET name = $3, description = $4, environment = $5, scopes = $6, disabled = $7,
		revoked_at = $8, deleted_at = $9, expires_at = $10, allowed_ips = $11, rate = $12, quota = $13, concurrency = $14,
		credits_limit = $15, metadata = $16, created_at = $17, created_by = $18, updated_at = $19,
		prefix = $20, last_four = $21, allowance = $22, version = version + 1
		WHERE id = $1 AND keyspace = $2 RETURNING version`,
		[]any{k.ID, k.Keyspace, k.Name, k.Description, k.Environment, words(k.Scopes), Flag(k.Disabled),
			Micros(k.RevokedAt), Micros(k.DeletedAt), Micros(k.ExpiresAt), prefixes(k.AllowedIPs),
			k.Rate, k.Quota, k.Concurrency, k.CreditsLimit,
			jsonText(k.Metadata), Micros(k.CreatedAt), k.CreatedBy, Micros(k.UpdatedAt), k.Prefix, k.LastFour, k.Allowance},
		&k.Version)
}
