package sqlstore

import (
	"log/slog"
	"testing"
)

var quiet = slog.New(slog.DiscardHandler)

// openTest opens the database at path and closes it with the test.
func openTest(t testing.TB, path string) *Store {
	t.Helper()
	s, err := Open(t.Context(), path, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// fileOf returns what a store on SQLite has open.
func fileOf(s *Store) *file { return s.db.(*sqliteDB).cur }
