package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
)

const ks = "default"

// digestOf returns the digest of the i-th key that fillKeys adds.
func digestOf(i int) (d apikey.Digest) {
	copy(d[:], fmt.Sprintf("%032d", i*2654435761))
	return d
}

// keyOf returns the id of the i-th key that fillKeys adds.
func keyOf(i int) string { return fmt.Sprintf("key_%026d", i) }

// fillKeys adds the keys numbered from to to-1 to the tenant "acme", with a secret each. It
// creates the tenant if needed.
func fillKeys(t testing.TB, s *Store, from, to int) {
	t.Helper()
	err := s.Update(t.Context(), func(tx management.Tx) error {
		if err := tx.InsertTenant(&gateway.Tenant{Keyspace: ks, Slug: "acme", Plan: "free", Active: true}); err != nil && !errors.Is(err, management.ErrSlugTaken) {
			return err
		}
		for i := from; i < to; i++ {
			if err := addKey(tx, i); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func addKey(tx management.Tx, i int) error {
	id := keyOf(i)
	d := digestOf(i)
	now := time.Now()
	if err := tx.InsertKey(&gateway.Key{ID: id, Keyspace: ks, Tenant: "acme", Name: "key", Environment: "live", Scopes: []string{"read"},
		CreatedAt: now, UpdatedAt: now, CreatedBy: "me", Prefix: "kg_live_abcd", LastFour: "wxyz"}); err != nil {
		return err
	}
	if err := tx.InsertSecret(gateway.Secret{ID: fmt.Sprintf("sec_%026d", i), KeyID: id, Keyspace: ks, Digest: d[:],
		Algorithm: apikey.SHA256, Prefix: "kg_live_abcd", LastFour: "wxyz", CreatedAt: now}); err != nil {
		return err
	}
	_, err := tx.Change(gateway.ChangeKey, ks, id)
	return err
}

func findSecret(t testing.TB, s *Store, i int) error {
	_, err := s.Lookup(t.Context(), ks, []apikey.Candidate{{Algorithm: apikey.SHA256, Digest: digestOf(i)}})
	return err
}

// putTenant writes a single row, the row of a tenant.
func putTenant(ctx context.Context, s *Store, slug string) error {
	return s.Update(ctx, func(tx management.Tx) error {
		return tx.InsertTenant(&gateway.Tenant{Keyspace: ks, Slug: slug})
	})
}

// expectUnavailable fails the test if err is not gateway.ErrStore with the given text. err must not be
// ErrNotFound either, because ErrNotFound would be an answer.
func expectUnavailable(t *testing.T, doing string, err error, text string) {
	t.Helper()
	switch {
	case !errors.Is(err, gateway.ErrStore) || errors.Is(err, gateway.ErrNotFound):
		t.Errorf("%s: %v; want ErrStore", doing, err)
	case !strings.Contains(err.Error(), text):
		t.Errorf("%s: %q does not contain %q", doing, err, text)
	}
}

// copyFile overwrites an existing file with the content of another file, as the program cp does.
func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// backup writes a copy of the whole database to a new file.
func backup(t *testing.T, s *Store) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "backup.db")
	if _, err := s.db.cur.write.Exec(`VACUUM INTO $1`, to); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestDiskFull(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "keygate.db"))
	fillKeys(t, s, 0, 10)
	var pages int
	if err := s.db.cur.write.QueryRow(`PRAGMA page_count`).Scan(&pages); err != nil {
		t.Fatal(err)
	}
	if _, err := s.db.cur.write.Exec(fmt.Sprintf(`PRAGMA max_page_count = %d`, pages+2)); err != nil {
		t.Fatal(err)
	}
	seq, _ := s.LastSeq(t.Context())
	// The function in the transaction ignores the first failure and continues. No part of its transaction
	// may be committed.
	err := s.Update(t.Context(), func(tx management.Tx) error {
		for i := 10; i < 500; i++ {
			_ = addKey(tx, i)
		}
		return nil
	})
	expectUnavailable(t, "writing to a full disk", err, "free some space")
	if now, err := s.LastSeq(t.Context()); now != seq || err != nil {
		t.Errorf("something of it was written: %d to %d, %v", seq, now, err)
	}
	if err := findSecret(t, s, 3); err != nil {
		t.Errorf("reading with a full disk: %v", err)
	}
	if _, err := s.db.cur.write.Exec(`PRAGMA max_page_count = 1000000`); err != nil {
		t.Fatal(err)
	}
	fillKeys(t, s, 10, 500)
	if err := findSecret(t, s, 400); err != nil {
		t.Error(err)
	}
}

func TestLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keygate.db")
	s, err := open(t.Context(), path, quiet, 50*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	fillKeys(t, s, 0, 10)
	other, err := sql.Open("sqlite", dsn(s.Identity(), url.Values{"_txlock": {"exclusive"}}))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	tx, err := other.Begin()
	if err != nil {
		t.Fatal(err)
	}
	expectUnavailable(t, "writing while another process writes", putTenant(t.Context(), s, "a"), "locked by another process")
	if err := findSecret(t, s, 3); err != nil {
		t.Errorf("reading while another process writes: %v", err)
	}
	// After one writer found the file locked, later writers fail soon instead of waiting one after another.
	if _, err := s.db.cur.write.Exec(`PRAGMA busy_timeout = 3600000`); err != nil {
		t.Fatal(err)
	}
	var many sync.WaitGroup
	for i := range 5 {
		many.Go(func() {
			expectUnavailable(t, "writing while others wait for the lock", putTenant(t.Context(), s, fmt.Sprint("many-", i)), "locked by another process")
		})
	}
	many.Wait()
	// A caller whose context ends before the wait for the lock also gets the reason.
	slow := openTest(t, path)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	err = putTenant(ctx, slow, "a")
	expectUnavailable(t, "giving up", err, "did not answer in time")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("giving up: %v is not the deadline", err)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Store{s, slow} {
		if err := putTenant(t.Context(), s, fmt.Sprintf("after-%p", s)); err != nil {
			t.Errorf("after the lock: %v", err)
		}
	}
}

// checkpoint moves the write-ahead log into the database file.
func checkpoint(t *testing.T, s *Store) {
	t.Helper()
	if _, err := s.db.cur.write.Exec(`PRAGMA wal_checkpoint(TRUNCATE)`); err != nil {
		t.Fatal(err)
	}
}

func TestCorruptAndRestoredInPlace(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "keygate.db"))
	fillKeys(t, s, 0, 3000)
	checkpoint(t, s)
	good := filepath.Join(t.TempDir(), "good.db")
	copyFile(t, s.Identity(), good)

	// The test overwrites all pages except the first, which holds the header. SQLite has cached some of the
	// pages. The file stays open afterwards, because closing it would drop SQLite's locks.
	f, err := os.OpenFile(s.Identity(), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	rubbish := []byte(strings.Repeat("rubbish ", int(info.Size()-4096)/8))
	if _, err := f.WriteAt(rubbish, 4096); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "a look-up needs a page that is not cached, and fails", func() bool {
		for i := range 3000 {
			if err := findSecret(t, s, i); err != nil {
				expectUnavailable(t, "reading a damaged file", err, "damaged")
				return true
			}
		}
		return false
	})
	expectUnavailable(t, "writing to a damaged file", putTenant(t.Context(), s, "a"), "")
	expectUnavailable(t, "reading all digests of a damaged file", s.Digests(t.Context(), func(string, []byte) bool { return true }), "")

	b, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "a key is found after the repair", func() bool { return findSecret(t, s, 7) == nil })
	for i := range 3000 {
		if err := findSecret(t, s, i); err != nil {
			t.Fatalf("key %d after the repair: %v", i, err)
		}
	}
	testkit.Eventually(t, "a write succeeds after the repair", func() bool { return putTenant(t.Context(), s, "b") == nil })
}

func TestReplacedByBackup(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "keygate.db"))
	fillKeys(t, s, 0, 10)
	old := backup(t, s)
	fillKeys(t, s, 10, 20) // The keys numbered 10 to 19 are in the write-ahead log, but not in the backup.
	awaitQuiet(t, s)
	if err := os.Rename(old, s.Identity()); err != nil {
		t.Fatal(err)
	}
	// Wait returns to the follower of changes. Changes that were only in the former log are not applied.
	if err := s.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the newest change is that of the backup", func() bool {
		seq, err := s.LastSeq(t.Context())
		return err == nil && seq == 10
	})
	if err := findSecret(t, s, 15); !errors.Is(err, gateway.ErrNotFound) {
		t.Errorf("a key that the backup does not have: %v", err)
	}
	fillKeys(t, s, 20, 30)
	if err := findSecret(t, s, 25); err != nil {
		t.Error(err)
	}
	checkIntegrity(t, s)

	// The file is replaced again. The next write goes to the new file.
	old = backup(t, s)
	if err := os.Rename(old, s.Identity()); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "a write succeeds on the new file", func() bool { return putTenant(t.Context(), s, "new") == nil })
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again := openTest(t, s.Identity())
	if err := again.View(t.Context(), func(tx management.Tx) error { _, err := tx.Tenant(ks, "new"); return err }); err != nil {
		t.Errorf("what was written after the replacement: %v", err)
	}
}

func checkIntegrity(t *testing.T, s *Store) {
	t.Helper()
	var result string
	if err := s.db.cur.write.QueryRow(`PRAGMA integrity_check`).Scan(&result); err != nil || result != "ok" {
		t.Errorf("integrity: %s, %v", result, err)
	}
}

// awaitQuiet waits until s has signalled all changes made so far.
func awaitQuiet(t *testing.T, s *Store) {
	t.Helper()
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 3*watchInterval)
		err := s.Wait(ctx)
		cancel()
		if err != nil {
			return
		}
	}
}

func TestRemoved(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "keygate.db"))
	fillKeys(t, s, 0, 10)
	aside := s.Identity() + ".aside"
	if err := os.Rename(s.Identity(), aside); err != nil {
		t.Fatal(err)
	}
	// The store neither writes to the renamed file nor creates an empty file in its place.
	expectUnavailable(t, "writing to a file that is gone", putTenant(t.Context(), s, "a"), "put it back")
	expectUnavailable(t, "Ping", s.Ping(t.Context()), "put it back")
	if err := findSecret(t, s, 3); err != nil {
		t.Errorf("reading from a file that is gone, but open: %v", err)
	}
	if _, err := os.Stat(s.Identity()); err == nil {
		t.Error("a new database was made")
	}
	if err := os.Rename(aside, s.Identity()); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "a write succeeds after the file was put back", func() bool { return putTenant(t.Context(), s, "a") == nil })
}

func TestNotADatabase(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "keygate.db"))
	fillKeys(t, s, 0, 10)
	good := backup(t, s)
	for name, content := range map[string]string{
		"rubbish": strings.Repeat("not a database ", 1000), "an empty file": "",
	} {
		bad := s.Identity() + ".bad"
		if err := os.WriteFile(bad, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(bad, s.Identity()); err != nil {
			t.Fatal(err)
		}
		testkit.Eventually(t, "look-ups in "+name+" fail", func() bool {
			err := findSecret(t, s, 3)
			if err != nil {
				expectUnavailable(t, "reading "+name, err, s.Identity())
			}
			return err != nil
		})
		expectUnavailable(t, "writing to "+name, putTenant(t.Context(), s, "a"), s.Identity())
		copied := s.Identity() + ".copy"
		copyFile(t, good, copied)
		if err := os.Rename(copied, s.Identity()); err != nil {
			t.Fatal(err)
		}
		testkit.Eventually(t, "a key of the backup is found after "+name, func() bool { return findSecret(t, s, 3) == nil })
	}
	testkit.Eventually(t, "a write succeeds after the backups", func() bool { return putTenant(t.Context(), s, "b") == nil })
	checkIntegrity(t, s)
}

func TestLogRemoved(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "keygate.db"))
	fillKeys(t, s, 0, 10)
	for _, ext := range []string{"-wal", "-shm"} {
		if err := os.Remove(s.Identity() + ext); err != nil {
			t.Fatal(err)
		}
	}
	// Neither the content of the removed log nor the next write is lost.
	testkit.Eventually(t, "a write succeeds", func() bool { return putTenant(t.Context(), s, "a") == nil })
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again := openTest(t, s.Identity())
	if err := findSecret(t, again, 9); err != nil {
		t.Error(err)
	}
	checkIntegrity(t, again)
}

func TestReadOnlyError(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "keygate.db"))
	_, err := s.db.cur.Read.Exec(`DELETE FROM peppers`)
	expectUnavailable(t, "a read-only connection", explain("writing", s.Identity(), err), "read-only")
}
