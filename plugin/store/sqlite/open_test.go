package sqlite

import (
	"context"
	"database/sql"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/store/sqlstore"
)

// raw opens a database with the SQLite driver alone, without the settings of package sqlite.
func raw(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", dsn(path, url.Values{}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func mustExec(t *testing.T, db *sql.DB, query string, args ...any) {
	t.Helper()
	if _, err := db.Exec(query, args...); err != nil {
		t.Fatal(err)
	}
}

func TestOpenPaths(t *testing.T) {
	for _, name := range []string{"keygate.db", "with space", "what?mode=memory", "a#b", "50%25 off", "per%cent", "a&_txlock=x", "über", "plus+", "semi;colon", "file:x", "quote'\""} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), name+".d")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, name)
			s := openTest(t, path)
			fillKeys(t, s, 0, 1)
			for _, ext := range []string{"", "-wal", "-shm"} {
				info, err := os.Stat(path + ext)
				if err != nil {
					t.Fatal(err)
				}
				if info.Mode().Perm() != 0o600 {
					t.Errorf("%s has mode %v", info.Name(), info.Mode())
				}
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			entries, err := os.ReadDir(dir)
			if err != nil || len(entries) != 1 {
				t.Errorf("left after closing: %v, %v", entries, err)
			}
			if err := findSecret(t, openTest(t, path), 0); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestOpenEmptyFileIsMadePrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keygate.db")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	openTest(t, path)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestOpenRejects(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	newer := filepath.Join(dir, "newer.db")
	openTest(t, newer).Close()
	mustExec(t, raw(t, newer), `INSERT INTO schema_version VALUES (99, 'later', 0); UPDATE meta SET value = '99' WHERE name = 'oldest_program'`)
	foreign := filepath.Join(dir, "foreign.db")
	mustExec(t, raw(t, foreign), `CREATE TABLE secrets (x)`)
	dangling := filepath.Join(dir, "dangling.db")
	if err := os.Symlink(filepath.Join(dir, "nothing"), dangling); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ path, text string }{
		{filepath.Join(dir, "no", "such", "keygate.db"), "create it"},
		{write("text.db", strings.Repeat("just a text\n", 500)), "damaged"},
		{newer, "written by a newer Keygate"},
		{foreign, "another program"},
		{dangling, "symbolic link to nothing"},
		{dir, "not a regular file"},
		{"", "empty"},
	} {
		s, err := Open(t.Context(), tc.path, quiet)
		if err == nil {
			s.Close()
			t.Errorf("%s was opened", tc.path)
			continue
		}
		expectUnavailable(t, tc.path, err, tc.text)
	}
	// A database that Open rejects stays unchanged.
	var version int
	if err := raw(t, newer).QueryRow(`SELECT max(version) FROM schema_version`).Scan(&version); err != nil || version != 99 {
		t.Errorf("the newer database: version %d, %v", version, err)
	}
}

// TestNewerSchema checks that a database stays usable if a newer Keygate only added to its schema. Nodes
// are upgraded one after another, and a node with the old version may be restarted meanwhile.
func TestNewerSchema(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keygate.db")
	s := openTest(t, path)
	fillKeys(t, s, 0, 1)
	s.Close()
	mustExec(t, raw(t, path), `INSERT INTO schema_version VALUES (99, 'later', 0); ALTER TABLE keys ADD COLUMN later TEXT NOT NULL DEFAULT ''`)
	s = openTest(t, path)
	if err := findSecret(t, s, 0); err != nil {
		t.Error(err)
	}
	if err := s.Update(t.Context(), func(tx management.Tx) error {
		return tx.InsertTenant(&gateway.Tenant{Keyspace: ks, Slug: "b", Plan: "free", CreatedAt: time.Now(), UpdatedAt: time.Now()})
	}); err != nil {
		t.Error(err)
	}
	var version int
	if err := raw(t, path).QueryRow(`SELECT max(version) FROM schema_version`).Scan(&version); err != nil || version != 99 {
		t.Errorf("version %d, %v", version, err)
	}
}

func TestIdentity(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(".", link); err != nil {
		t.Fatal(err)
	}
	want := filepath.Join(dir, "keygate.db")
	t.Chdir(dir)
	names := []string{"keygate.db", "./link/../keygate.db", filepath.Join(link, "keygate.db"), want}
	check := func() {
		t.Helper()
		for _, name := range names {
			if got, err := Identity(name); err != nil || got != want {
				t.Errorf("Identity(%s) = %s, %v; want %s", name, got, err, want)
			}
		}
	}
	check() // The first check runs before the file exists.
	s := openTest(t, "link/keygate.db")
	if s.Identity() != want {
		t.Errorf("opened %s, want %s", s.Identity(), want)
	}
	if err := os.Symlink("keygate.db", "other.db"); err != nil {
		t.Fatal(err)
	}
	names = append(names, "other.db")
	check()
}

func TestMigrations(t *testing.T) {
	all, err := Dialect.SchemaVersion()
	if err != nil || all == 0 {
		t.Fatal(all, err)
	}
	// If one migration fails, the database has none of the earlier migrations either.
	path := filepath.Join(t.TempDir(), "keygate.db")
	db, err := sql.Open("sqlite", dsn(path, url.Values{"_txlock": {"immediate"}}))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	broken := *Dialect
	broken.Types = strings.NewReplacer("$SERIAL", "INTEGER PRIMARY KEY", "$BYTES", "BLOB", "$COMPACT", "", "RAISE(ABORT", "NONSENSE(")
	if _, err := sqlstore.Migrate(t.Context(), db, &broken, true); err == nil {
		t.Fatal("a broken migration was applied")
	}
	var tables int
	if err := db.QueryRow(Dialect.Tables).Scan(&tables); err != nil || tables != 0 {
		t.Errorf("%d tables left, %v", tables, err)
	}
	if n, err := sqlstore.Migrate(t.Context(), db, Dialect, true); err != nil || n != all {
		t.Errorf("applied %d, %v; want %d", n, err, all)
	}
	if n, err := sqlstore.Migrate(t.Context(), db, Dialect, true); err != nil || n != 0 {
		t.Errorf("applied again: %d, %v", n, err)
	}
}

func TestOpenTogether(t *testing.T) {
	for range 5 {
		path := filepath.Join(t.TempDir(), "keygate.db")
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				s, err := Open(t.Context(), path, quiet)
				if err != nil {
					t.Error(err)
					return
				}
				defer s.Close()
				if err := s.Ping(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
}

func TestTwoStoresOnOneFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keygate.db")
	a, b := openTest(t, path), openTest(t, path)
	awaitQuiet(t, b)
	fillKeys(t, a, 0, 3)
	if err := b.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if list, err := b.Changes(t.Context(), 0, 10); err != nil || len(list) != 3 {
		t.Errorf("changes seen by the other: %v, %v", list, err)
	}
	// A write of one store that makes no change does not wake the other store.
	awaitQuiet(t, b)
	if err := a.WriteFlush(t.Context(), "n", &gateway.Flush{Usage: []gateway.Usage{{Subject: "x", Calendar: 1, Start: time.Now(), Used: 1}}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*watchInterval)
	defer cancel()
	if err := b.Wait(ctx); err == nil {
		t.Error("written counts woke the other store")
	}
	// Closing one store does not close the other store of the same file.
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	fillKeys(t, b, 3, 5)
	if err := findSecret(t, b, 4); err != nil {
		t.Error(err)
	}
}

func TestAuditIsAppendOnly(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "keygate.db"))
	err := s.Update(t.Context(), func(tx management.Tx) error {
		for i := range 3 {
			if err := tx.InsertAudit(&audit.Row{Seq: int64(i + 1), ID: string(rune('a' + i)), Keyspace: ks, Action: "x",
				At: time.Now(), Personal: []byte(`{}`), Salt: []byte{1}, PersonalHash: []byte{2}, Hash: []byte{3}}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	db := raw(t, s.Identity())
	for _, query := range []string{
		`DELETE FROM audit`, `DELETE FROM audit WHERE seq = 3`,
		`UPDATE audit SET hash = x'00' WHERE seq = 2`, `UPDATE audit SET action = 'y'`, `UPDATE audit SET after = '{}'`,
		`UPDATE audit SET at = at + 1`, `UPDATE audit SET seq = seq + 10`, `UPDATE audit SET personal_hash = NULL, personal = NULL, salt = NULL`,
		`UPDATE audit SET personal = '{"actor":"someone else"}'`, `UPDATE audit SET personal = NULL`, // An update that erases personal data must erase the salt too.
		`INSERT INTO audit SELECT 2, 'z', keyspace, at, action, target, tenant, key_id, via, before, after, personal, salt, personal_hash, prev, hash FROM audit WHERE seq = 1`,
		`INSERT OR REPLACE INTO audit SELECT 3, 'z', keyspace, at, action, target, tenant, key_id, via, before, after, personal, salt, personal_hash, prev, hash FROM audit WHERE seq = 1`,
	} {
		if _, err := db.Exec(query); err == nil {
			t.Errorf("%s was done", query)
		}
	}
	mustExec(t, db, `UPDATE audit SET personal = NULL, salt = NULL WHERE seq = 1`)
	var n, hashes int
	if err := db.QueryRow(`SELECT count(*), count(DISTINCT hash) FROM audit`).Scan(&n, &hashes); err != nil || n != 3 || hashes != 1 {
		t.Errorf("%d events, %d hashes, %v", n, hashes, err)
	}
}

func TestLeasesEnd(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "keygate.db"))
	now := time.Now()
	s.Now = func() time.Time { return now }
	fillKeys(t, s, 0, 1)
	if err := s.Update(t.Context(), func(tx management.Tx) error {
		return tx.AddCredits(&management.LedgerEntry{Keyspace: ks, Tenant: "acme", Kind: "add", Amount: 100})
	}); err != nil {
		t.Fatal(err)
	}
	lease := func(node string, want, granted int64) {
		t.Helper()
		if got, _, err := s.LeaseCredits(t.Context(), node, ks, "acme", want); err != nil || got != granted {
			t.Errorf("%s was granted %d, %v; want %d", node, got, err, granted)
		}
	}
	lease("a", 60, 60)
	now = now.Add(sqlstore.LeaseTTL - time.Millisecond)
	lease("b", 100, 40)
	if err := s.WriteFlush(t.Context(), "a", &gateway.Flush{}); err != nil {
		t.Fatal(err)
	}
	now = now.Add(sqlstore.LeaseTTL - time.Millisecond)
	lease("c", 100, 0) // Node a has renewed its lease with its flush, so node c gets nothing.
	now = now.Add(2 * time.Millisecond)
	lease("c", 100, 100) // The leases of nodes a and b have ended, so node c gets the credits.
	lease("a", 100, 0)   // Node a does not know that its lease has ended. It gets no more credits.
	// Nodes a and c report spends of the same credits. The balance is charged until it is zero.
	for _, node := range []string{"c", "a"} {
		if err := s.WriteFlush(t.Context(), node, &gateway.Flush{Spends: []gateway.Spend{{Keyspace: ks, Tenant: "acme", KeyID: "k", Amount: 60}}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.View(t.Context(), func(tx management.Tx) error {
		got, err := tx.Tenant(ks, "acme")
		if err == nil && got.Credits != 0 {
			t.Errorf("balance %d, want 0", got.Credits)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}
