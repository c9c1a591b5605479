package sqlstore

import (
	"testing"

	"github.com/keygate-dev/keygate/internal/testserver"
	"github.com/keygate-dev/keygate/plugin/store/storetest"
)

// openPostgres opens a database of PostgreSQL's and closes it with the test.
func openPostgres(t testing.TB, url string) *Store {
	t.Helper()
	s, err := NewPostgres(PostgresConfig{Address: url, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestPostgresStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Store {
		return openPostgres(t, testserver.PostgresURL(t))
	})
}

func TestPostgresStoreThroughPgBouncer(t *testing.T) {
	pooler := testserver.NewPgBouncer(t, testserver.PostgresURL(t))
	storetest.Run(t, func(t *testing.T) storetest.Store {
		url := testserver.PostgresURL(t)
		s, err := NewPostgres(PostgresConfig{Address: pooler.Through(url), Listen: url, Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	})
}
