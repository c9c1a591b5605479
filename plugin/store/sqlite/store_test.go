package sqlite

import (
	"log/slog"
	"testing"

	"github.com/keygate-dev/keygate/internal/testserver"
	"github.com/keygate-dev/keygate/plugin/store/postgres"
)

var quiet = slog.New(slog.DiscardHandler)

// openTest opens the database at path, and closes it when the test ends.
func openTest(t testing.TB, path string) *Store {
	t.Helper()
	s, err := Open(t.Context(), path, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// openPostgres creates and opens a new PostgreSQL database. The store is closed when the test ends.
func openPostgres(t testing.TB) *postgres.Store {
	t.Helper()
	s, err := postgres.New(postgres.Config{Address: testserver.PostgresURL(t), Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}
