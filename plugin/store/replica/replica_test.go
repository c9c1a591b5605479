package replica_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/internal/teststore"
	"github.com/keygate-dev/keygate/plugin/store/replica"
	"github.com/keygate-dev/keygate/plugin/store/sqlite"
	"github.com/keygate-dev/keygate/plugin/store/storetest"
)

var quiet = slog.New(slog.DiscardHandler)

// sqlitePrimary opens a store in the SQLite file at path.
func sqlitePrimary(t testing.TB, path string) *sqlite.Store {
	t.Helper()
	return teststore.SQLite(t, path, quiet)
}

// openReplica opens a replica. The replica and its primary are closed when the test ends.
func openReplica(t testing.TB, primary replica.Primary, file string) *replica.Replica {
	t.Helper()
	r, err := replica.Open(t.Context(), replica.Options{File: file, Primary: primary, Logger: quiet})
	if err != nil {
		primary.Close()
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// waitCopied waits until look-ups use the copy.
func waitCopied(t testing.TB, r *replica.Replica) {
	t.Helper()
	testkit.Eventually(t, "the copy is made", func() bool { return !r.Status().PassThrough })
}

func ctxOf(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
	t.Cleanup(cancel)
	return ctx
}

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Store {
		dir := t.TempDir()
		r := openReplica(t, sqlitePrimary(t, filepath.Join(dir, "primary.db")), filepath.Join(dir, "replica.db"))
		waitCopied(t, r)
		return announcing{r}
	})
}
