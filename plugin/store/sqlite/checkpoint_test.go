package sqlite

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/store/sqlstore"
)

// An erased person is in none of the database's files: neither in the write-ahead log nor in free space of the database.
func TestErasedPersonLeavesAllFiles(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keygate.db")
	s := openTest(t, path)
	const people = 30
	slug := func(i int) string { return fmt.Sprintf("t%d", i) }
	if err := s.Update(t.Context(), func(tx management.Tx) error {
		for i := range people {
			if err := tx.InsertTenant(&gateway.Tenant{
				Keyspace: ks, Slug: slug(i), Plan: "free", Name: "Josefine Quirrelbach", Metadata: json.RawMessage(`{"mail":"` + strings.Repeat("jq@example.net ", i) + `"}`),
			}); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	// Another process reads the files, because this process would drop SQLite's locks.
	named := func() bool {
		out, err := exec.Command("cat", path, path+"-wal").Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(out), "Quirrelbach") || strings.Contains(string(out), "jq@example.net")
	}
	if !named() {
		t.Fatal("the files do not hold the names")
	}
	// While a reader uses the log, the log can't be emptied.
	reading, end := make(chan struct{}), make(chan struct{})
	go s.db.Stream(t.Context(), func(c *sqlstore.Conns) error {
		rows, err := c.Read.QueryContext(t.Context(), `SELECT slug FROM tenants WHERE num = 1`)
		if err != nil {
			return err
		}
		defer rows.Close()
		rows.Next()
		close(reading)
		<-end
		return nil
	})
	<-reading
	for i := range people {
		if err := s.Update(t.Context(), func(tx management.Tx) error {
			_, err := tx.ErasePersonal(ks, slug(i))
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	if !named() {
		t.Error("the log was emptied under a reader")
	}
	close(end)
	testkit.Eventually(t, "the names are in no file", func() bool { return !named() })
	if info, err := os.Stat(path + "-wal"); err != nil || info.Size() != 0 {
		t.Errorf("the log is not empty: %v, %v", info, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || strings.Contains(string(b), "Quirrelbach") {
		t.Errorf("after closing, the database holds the name, or %v", err)
	}
}
