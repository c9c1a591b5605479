package sqlite

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
)

const million = 1_000_000

// bulkStore returns a store with a million keys. SQL statements copy the first key, so all keys have the
// form that addKey gives them.
func bulkStore(b *testing.B) *Store {
	b.Helper()
	s := openTest(b, filepath.Join(b.TempDir(), "keygate.db"))
	fillKeys(b, s, 0, 1)
	start := time.Now()
	tx, err := s.db.cur.write.Begin()
	if err != nil {
		b.Fatal(err)
	}
	defer tx.Rollback()
	for _, query := range []string{
		`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < $1)
		INSERT INTO keys (id, keyspace, tenant_num, name, description, environment, scopes, disabled, allowed_ips, rate, quota, concurrency,
			created_at, created_by, updated_at, last_used_ip, prefix, last_four, version)
		SELECT printf('key_%026d', i), keyspace, tenant_num, name, description, environment, scopes, disabled, allowed_ips, rate, quota, concurrency,
			created_at, created_by, updated_at, last_used_ip, printf('kg_live_%04d', i % 10000), last_four, version FROM n, keys k WHERE k.num = 1`,
		`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < $1)
		INSERT INTO secrets (id, key_num, keyspace, digest, algorithm, prefix, last_four, created_at, last_used_ip)
		SELECT printf('sec_%026d', i), i + 1, keyspace, CAST(printf('%032d', i * 2654435761) AS BLOB), algorithm, prefix, last_four, created_at, last_used_ip
		FROM n, secrets s WHERE s.num = 1`,
	} {
		if _, err := tx.Exec(query, million); err != nil {
			b.Fatal(err)
		}
	}
	if err := tx.Commit(); err != nil {
		b.Fatal(err)
	}
	if _, err := s.db.cur.write.Exec(`PRAGMA wal_checkpoint(TRUNCATE)`); err != nil {
		b.Fatal(err)
	}
	b.Logf("made in %v", time.Since(start).Round(time.Millisecond))
	return s
}

// BenchmarkMillion measures the operations of a gateway with a million keys.
func BenchmarkMillion(b *testing.B) {
	s := bulkStore(b)
	b.Run("Lookup", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := findSecret(b, s, rand.IntN(million)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("LookupParallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := findSecret(b, s, rand.IntN(million)); err != nil {
					b.Error(err)
				}
			}
		})
	})
	b.Run("LookupUnknown", func(b *testing.B) {
		b.ReportAllocs()
		var d apikey.Digest
		for b.Loop() {
			for i := range d {
				d[i] = byte(rand.Uint32())
			}
			if _, err := s.Lookup(b.Context(), ks, []apikey.Candidate{{Digest: d}}); err == nil {
				b.Fatal("found")
			}
		}
	})
	b.Run("Digests", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			n := 0
			if err := s.Digests(b.Context(), func(_ string, d []byte) bool { n += len(d); return true }); err != nil || n != 32*million {
				b.Fatal(n, err)
			}
		}
	})
	b.Run("Open", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			again, err := Open(b.Context(), s.Identity(), quiet)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := again.CountSecrets(b.Context()); err != nil {
				b.Fatal(err)
			}
			again.Close()
		}
	})
	b.Run("Keys", func(b *testing.B) {
		for name, q := range map[string]management.KeyQuery{
			"newest": {}, "tenant": {Tenant: "acme"}, "prefix": {Prefix: "kg_live_1234"}, "active": {Status: gateway.StatusActive},
		} {
			b.Run(name, func(b *testing.B) {
				b.ReportAllocs()
				q.Keyspace, q.Now, q.Limit = ks, time.Now(), 50
				for b.Loop() {
					if err := s.View(b.Context(), func(tx management.Tx) error {
						list, err := tx.Keys(q)
						if len(list) != 50 {
							b.Fatal(len(list))
						}
						return err
					}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	})
	b.Run("Flush1000", func(b *testing.B) {
		b.ReportAllocs()
		at := time.Now()
		for b.Loop() {
			at = at.Add(time.Second)
			f := &gateway.Flush{At: at}
			for range 1000 {
				i := rand.IntN(million)
				f.Touches = append(f.Touches, gateway.Touch{KeyID: fmt.Sprintf("key_%026d", i), SecretID: fmt.Sprintf("sec_%026d", i), At: at, IP: "192.0.2.1"})
				f.Usage = append(f.Usage, gateway.Usage{Subject: fmt.Sprint("k:default:", i), Calendar: 1, Start: at.Truncate(24 * time.Hour), Used: 5})
			}
			if err := s.WriteFlush(b.Context(), "n", f); err != nil {
				b.Fatal(err)
			}
		}
	})
	next := million
	b.Run("Update", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := s.Update(b.Context(), func(tx management.Tx) error { return addKey(tx, next) }); err != nil {
				b.Fatal(err)
			}
			next++
		}
	})
}

func BenchmarkWatch(b *testing.B) {
	s := openTest(b, filepath.Join(b.TempDir(), "keygate.db"))
	b.ReportAllocs()
	var v int64
	for b.Loop() {
		if err := s.db.cur.inPlace(); err != nil {
			b.Fatal(err)
		}
		if err := s.db.cur.watchConn.QueryRowContext(b.Context(), `PRAGMA data_version`).Scan(&v); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFlush measures the time to write the counts of a thousand keys in steady use.
func BenchmarkFlush(b *testing.B) {
	s := openTest(b, filepath.Join(b.TempDir(), "keygate.db"))
	if err := s.Update(b.Context(), func(tx management.Tx) error {
		if err := tx.InsertTenant(&gateway.Tenant{Keyspace: "default", Slug: "acme", Name: "Acme", Plan: "free", Active: true, CreatedAt: time.Now(), UpdatedAt: time.Now()}); err != nil {
			return err
		}
		for i := range 1000 {
			id := fmt.Sprintf("%026d", i)
			if err := tx.InsertKey(&gateway.Key{ID: "key_" + id, Keyspace: "default", Tenant: "acme", Name: id, Environment: "live", CreatedAt: time.Now(), UpdatedAt: time.Now()}); err != nil {
				return err
			}
			digest := sha256.Sum256([]byte(id))
			if err := tx.InsertSecret(gateway.Secret{ID: "sec_" + id, KeyID: "key_" + id, Keyspace: "default", Digest: digest[:], Algorithm: apikey.SHA256, CreatedAt: time.Now()}); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		b.Fatal(err)
	}
	at := time.Now()
	f := &gateway.Flush{}
	for i := range 1000 {
		id := fmt.Sprintf("%026d", i)
		f.Touches = append(f.Touches, gateway.Touch{KeyID: "key_" + id, SecretID: "sec_" + id, IP: "192.0.2.1"})
		f.Usage = append(f.Usage, gateway.Usage{Subject: "k:default:key_" + id, Calendar: 1, Start: at.Truncate(24 * time.Hour)})
	}
	b.ReportAllocs()
	for b.Loop() {
		at = at.Add(time.Second)
		for i := range 1000 {
			f.Touches[i].At = at
			f.Usage[i].Used++
		}
		if err := s.WriteFlush(b.Context(), "n", f); err != nil {
			b.Fatal(err)
		}
	}
}
