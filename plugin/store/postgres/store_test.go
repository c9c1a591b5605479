package postgres

import (
	"log/slog"
	"testing"

	"github.com/keygate-dev/keygate/internal/testserver"
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
