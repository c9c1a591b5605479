package replica_test

import (
	"context"
	"database/sql"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // The import registers the PostgreSQL driver.

	"github.com/keygate-dev/keygate/internal/testserver"
	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/store/postgres"
	"github.com/keygate-dev/keygate/plugin/store/replica"
)

// bulkKeys is how many keys BenchmarkBulk copies. Ten million need 8 GB of disk and -timeout 1h.
var bulkKeys = flag.Int("bulk.keys", 1_000_000, "how many keys BenchmarkBulk copies")

func fullKey(i int) string { return fmt.Sprintf("kg_live_%032d", i) }

// bulkPostgres returns the address of a database with n keys, which SQL statements create.
func bulkPostgres(b *testing.B, n int) string {
	b.Helper()
	url := testserver.PostgresURL(b)
	primary, err := postgres.New(postgres.Config{Address: url, Logger: quiet})
	if err != nil {
		b.Fatal(err)
	}
	defer primary.Close()
	addTenant(b, primary, "acme")
	addKey(b, primary, "acme", "key_0", fullKey(0))
	db, err := sql.Open("pgx", url)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	for _, query := range []string{
		`INSERT INTO keys (id, keyspace, tenant_num, name, description, environment, scopes, disabled, allowed_ips, rate, quota, concurrency,
			created_at, created_by, updated_at, last_used_ip, prefix, last_four, version)
		SELECT 'key_' || lpad(i::text, 26, '0'), keyspace, tenant_num, name, description, environment, scopes, disabled, allowed_ips, rate, quota, concurrency,
			created_at, created_by, updated_at, last_used_ip, prefix, last_four, version FROM keys k, generate_series(1, $1::int - 1) i WHERE k.id = 'key_0'`,
		`INSERT INTO secrets (id, key_num, keyspace, digest, algorithm, prefix, last_four, created_at, last_used_ip)
		SELECT 'sec_' || lpad(i::text, 26, '0'), k.num, s.keyspace, sha256(convert_to('kg_live_' || lpad(i::text, 32, '0'), 'UTF8')), s.algorithm, s.prefix, s.last_four, s.created_at, s.last_used_ip
		FROM secrets s, generate_series(1, $1::int - 1) i JOIN keys k ON k.id = 'key_' || lpad(i::text, 26, '0') WHERE s.id = 'sec_key_0'`,
	} {
		if _, err := db.Exec(query, n); err != nil {
			b.Fatal(err)
		}
	}
	return url
}

// BenchmarkBulk measures a node whose primary, in PostgreSQL, has a million keys, or the number in
// -bulk.keys.
func BenchmarkBulk(b *testing.B) {
	keys := *bulkKeys
	url := bulkPostgres(b, keys)
	open := func(b *testing.B) *postgres.Store {
		primary, err := postgres.New(postgres.Config{Address: url, Logger: quiet})
		if err != nil {
			b.Fatal(err)
		}
		return primary
	}
	file := filepath.Join(b.TempDir(), "replica.db")
	b.Run("Copy", func(b *testing.B) {
		b.ReportAllocs()
		var heap uint64
		for b.Loop() {
			if err := replica.RemoveCopy(file); err != nil {
				b.Fatal(err)
			}
			r, err := replica.Open(b.Context(), replica.Options{File: file, Primary: open(b), Logger: quiet})
			if err != nil {
				b.Fatal(err)
			}
			began := time.Now()
			for r.Status().PassThrough {
				if time.Since(began) > 30*time.Minute {
					b.Fatal("not copied")
				}
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				heap = max(heap, m.HeapAlloc)
				time.Sleep(10 * time.Millisecond)
			}
			r.Close()
		}
		b.ReportMetric(float64(heap)/(1<<20), "MiB-heap-peak")
		b.ReportMetric(float64(keys)*float64(b.N)/b.Elapsed().Seconds(), "keys/s")
	})
	b.Run("Open", func(b *testing.B) {
		for b.Loop() {
			r, err := replica.Open(b.Context(), replica.Options{File: file, Primary: open(b), Logger: quiet})
			if err != nil {
				b.Fatal(err)
			}
			r.Close()
		}
	})
	r := openReplica(b, open(b), file)
	plain, _, err := replica.OpenCopy(b.Context(), file, quiet)
	if err != nil {
		b.Fatal(err)
	}
	defer plain.Close()
	for name, s := range map[string]gateway.Store{"replica": r, "plain": plain} {
		b.Run("Lookup/"+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := find(b.Context(), s, rand.IntN(keys)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("Update", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := r.Update(b.Context(), func(tx management.Tx) error {
				_, err := tx.Change(gateway.ChangeKey, ks, "key_0")
				return err
			}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func find(ctx context.Context, s gateway.Store, i int) error {
	_, err := s.Lookup(ctx, ks, []apikey.Candidate{candidate(fullKey(i))})
	return err
}
