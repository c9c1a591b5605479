//go:build soak

package e2e

import (
	"crypto/sha256"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	_ "modernc.org/sqlite"
)

// keysPerTenant is the number of keys of each tenant in a big store.
const keysPerTenant = 10

// bigKey returns the i-th key of a big store. Equal i give equal keys.
func bigKey(i int) string {
	var seed [32]byte
	copy(seed[:], strconv.Itoa(i))
	r := rand.NewChaCha8(seed)
	b := make([]byte, plain.random-plain.checksum)
	_, _ = r.Read(b)
	for j, c := range b {
		b[j] = base62[int(c)%len(base62)]
	}
	return plain.prefix + string(b) + checksum(string(b), plain.checksum)
}

// fillStore inserts n keys into the database of a stopped gateway. It writes to the tables, since
// creating a million keys with the management API would take an hour.
func fillStore(t testing.TB, s *site, n int) {
	t.Helper()
	begun := time.Now()
	db, err := sql.Open("sqlite", "file:"+s.database)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	exec := func(query string, args ...any) {
		t.Helper()
		if _, err := db.Exec(query, args...); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
	for _, pragma := range []string{"journal_mode=DELETE", "synchronous=OFF", "locking_mode=EXCLUSIVE", "cache_size=-400000", "temp_store=MEMORY"} {
		exec("PRAGMA " + pragma)
	}
	// Creating the indexes at the end is faster, since SQLite then sorts all rows at once.
	var indexes []string
	rows, err := db.Query(`SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL AND tbl_name IN ('tenants', 'keys', 'secrets')`)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for rows.Next() {
		var name, text string
		if err := rows.Scan(&name, &text); err != nil {
			t.Fatal(err)
		}
		names, indexes = append(names, name), append(indexes, text)
	}
	if err := rows.Err(); err != nil || len(indexes) == 0 {
		t.Fatalf("%d indexes, %v", len(indexes), err)
	}
	for _, name := range names {
		exec("DROP INDEX " + name)
	}
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	prepare := func(query string) *sql.Stmt {
		t.Helper()
		st, err := tx.Prepare(query)
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	tenant := prepare(`INSERT INTO tenants (num, keyspace, slug, folded, name, plan, active, rate, quota, concurrency, created_at, updated_at, version)
		VALUES ($1, 'default', $2, $2, $2, 'free', 1, '', '', '', $3, $3, 1)`)
	key := prepare(`INSERT INTO keys (num, id, keyspace, tenant_num, name, description, environment, disabled, allowed_ips, rate, quota, concurrency, created_at, created_by, updated_at, last_used_ip, prefix, last_four, version)
		VALUES ($1, $2, 'default', $3, $4, '', 'live', 0, '', '', '', '', $5, 'import', $5, '', $6, $7, 1)`)
	secret := prepare(`INSERT INTO secrets (num, id, key_num, keyspace, digest, algorithm, prefix, last_four, created_at, last_used_ip)
		VALUES ($1, $2, $1, 'default', $3, 'sha256', $4, $5, $6, '')`)
	at := time.Now().UnixMicro()
	for i := range n {
		if i%keysPerTenant == 0 {
			if _, err := tenant.Exec(i/keysPerTenant+1, fmt.Sprintf("tenant-%d", i/keysPerTenant), at); err != nil {
				t.Fatal(err)
			}
		}
		full := bigKey(i)
		digest := sha256.Sum256([]byte(full))
		if _, err := key.Exec(i+1, fmt.Sprintf("key_%026d", i), i/keysPerTenant+1, fmt.Sprintf("key %d", i), at, full[:12], full[len(full)-10:len(full)-6]); err != nil {
			t.Fatal(err)
		}
		if _, err := secret.Exec(i+1, fmt.Sprintf("sec_%026d", i), digest[:], full[:12], full[len(full)-10:len(full)-6], at); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	for _, text := range indexes {
		exec(text)
	}
	t.Logf("%d keys stored in %v", n, time.Since(begun).Round(time.Second))
}
