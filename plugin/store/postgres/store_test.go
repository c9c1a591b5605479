package postgres

import (
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testserver"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
	"github.com/keygate-dev/keygate/plugin/store/storetest"
)

const ks = "default"

var quiet = slog.New(slog.DiscardHandler)

// openPostgres opens the PostgreSQL database at url, and closes it when the test ends.
func openPostgres(t testing.TB, url string) *Store {
	t.Helper()
	s, err := New(Config{Address: url, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Store {
		return openPostgres(t, testserver.PostgresURL(t))
	})
}

func TestStoreThroughPgBouncer(t *testing.T) {
	pooler := testserver.NewPgBouncer(t, testserver.PostgresURL(t))
	storetest.Run(t, func(t *testing.T) storetest.Store {
		url := testserver.PostgresURL(t)
		s, err := New(Config{Address: pooler.Through(url), Listen: url, Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	})
}

// TestOtherIsolationLevels sets stricter default levels for the database. Concurrent changes still succeed, because the store
// asks for the level that it needs and repeats what conflicts.
func TestOtherIsolationLevels(t *testing.T) {
	t.Parallel()
	for _, level := range []string{"repeatable read", "serializable"} {
		t.Run(level, func(t *testing.T) {
			t.Parallel()
			pg := testserver.NewPostgres(t)
			pg.Exec("ALTER DATABASE postgres SET default_transaction_isolation = '" + level + "'")
			s := openPostgres(t, pg.URL())
			ctx := t.Context()
			if err := s.Update(ctx, func(tx management.Tx) error {
				return tx.InsertTenant(&gateway.Tenant{Keyspace: "default", Slug: "acme", Plan: "free", Active: true, CreatedAt: time.Now()})
			}); err != nil {
				t.Fatal(err)
			}
			const writers, each = 8, 20
			var all sync.WaitGroup
			for w := range writers {
				all.Go(func() {
					for i := range each {
						err := s.Update(ctx, func(tx management.Tx) error {
							if _, err := tx.LockTenant("default", "acme"); err != nil {
								return err
							}
							if err := tx.AddCredits(&management.LedgerEntry{Keyspace: "default", Tenant: "acme", Kind: "add", Amount: 1, At: time.Now()}); err != nil {
								return err
							}
							_, err := tx.Change(gateway.ChangeTenant, "default", "acme")
							return err
						})
						if err != nil {
							t.Errorf("writer %d, change %d: %v", w, i, err)
						}
						if err := s.WriteFlush(ctx, fmt.Sprint("node", w), &gateway.Flush{At: time.Now(), Usage: []gateway.Usage{{Subject: "t:default:acme", Calendar: ratelimit.Total, Used: int64(i)}}}); err != nil {
							t.Errorf("writer %d, flush %d: %v", w, i, err)
						}
					}
				})
			}
			all.Wait()
			if seq, err := s.LastSeq(ctx); err != nil || seq < writers*each {
				t.Errorf("the last change is %d, %v", seq, err)
			}
		})
	}
}
