package sqlite_test

import (
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/keygate-dev/keygate/internal/teststore"
	"github.com/keygate-dev/keygate/plugin/store/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Store {
		s := teststore.SQLite(t, filepath.Join(t.TempDir(), "keygate.db"), slog.New(slog.DiscardHandler))
		t.Cleanup(func() { s.Close() })
		return s
	})
}
