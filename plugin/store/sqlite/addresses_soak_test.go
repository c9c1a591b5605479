//go:build soak

package sqlite

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/plugin/ratelimit"
	"github.com/keygate-dev/keygate/plugin/store/sqlstore"
)

// TestManyAddresses checks that sixty thousand client addresses of one plan get only as many rows as the
// limit allows, and that the file stays small.
func TestManyAddresses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keygate.db")
	s := openTest(t, path)
	unstored := 0
	for first := 0; first < 60_000; first += 6000 {
		unstored += flushCounts(t, s.Store, addressCounts("p:default:free", first, 6000, ratelimit.Day.Start(time.Now())))
	}
	if unstored != 60_000-s.AddressRows {
		t.Errorf("%d got no row", unstored)
	}
	var n int
	if err := s.Query(t.Context(), "counting", func(f *sqlstore.Conns) error {
		return f.Read.QueryRowContext(t.Context(), `SELECT count(*) FROM quota_counts LIMIT 1`).Scan(&n)
	}); err != nil || n != s.AddressRows {
		t.Errorf("%d rows, %v", n, err)
	}
	s.Close()
	if in, err := os.Stat(path); err != nil || in.Size() > 16<<20 {
		t.Errorf("the file has %v bytes, %v", in.Size(), err)
	}
}
