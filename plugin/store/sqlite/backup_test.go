package sqlite

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/auth"
)

// backupOf writes a backup of s to a new file and returns its path.
func backupOf(t *testing.T, s *Store) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "backup")
	if _, err := s.Backup(t.Context(), file); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestBackupUnderWrites checks that a backup holds all keys that were committed before the backup began,
// while other keys are written.
func TestBackupUnderWrites(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "keygate.db")
	s := openTest(t, path)
	fillKeys(t, s, 0, 100)
	var written atomic.Int64
	written.Store(100)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		for i := 100; ctx.Err() == nil; i++ {
			if err := s.Update(t.Context(), func(tx management.Tx) error { return addKey(tx, i) }); err != nil {
				ended <- err
				return
			}
			written.Store(int64(i + 1))
		}
		ended <- nil
	}()
	backups := make(map[string]int64)
	for range 2 {
		before := written.Load()
		testkit.Eventually(t, "three more keys are written", func() bool { return written.Load() >= before+3 })
		committed := written.Load()
		backups[backupOf(t, s)] = committed
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	for file, committed := range backups {
		info, err := os.Stat(file)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Fatalf("mode %v, %v", info.Mode(), err)
		}
		if entries, err := os.ReadDir(filepath.Dir(file)); err != nil || len(entries) != 1 {
			t.Errorf("the directory of the backup holds %v, %v", entries, err)
		}
		other := filepath.Join(t.TempDir(), "keygate.db")
		if done, err := Restore(t.Context(), file, other, quiet, nil, nil); err != nil || done.Aside != "" {
			t.Fatalf("restored: %+v, %v", done, err)
		}
		restored := openTest(t, other)
		for i := range int(committed) {
			if err := findSecret(t, restored, i); err != nil {
				t.Fatalf("key %d of the %d that were stored: %v", i, committed, err)
			}
		}
	}
}

func TestBackupRejectsPaths(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, filepath.Join(dir, "keygate.db"))
	taken := filepath.Join(dir, "taken")
	if err := os.WriteFile(taken, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{taken, filepath.Join(dir, "keygate.db"), filepath.Join(dir, "no", "such"), dir} {
		if _, err := s.Backup(t.Context(), file); err == nil {
			t.Errorf("%s was written", file)
		}
	}
	if b, err := os.ReadFile(taken); err != nil || string(b) != "precious" {
		t.Errorf("the file is now %q, %v", b, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	file := filepath.Join(t.TempDir(), "new")
	if _, err := s.Backup(ended, file); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if left, err := os.ReadDir(filepath.Dir(file)); err != nil || len(left) != 0 {
		t.Errorf("files left behind: %v, %v", left, err)
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestRestoreKeepsFormerDatabase(t *testing.T) {
	for name, harm := range map[string]func(t *testing.T, path string){
		"sound":   func(*testing.T, string) {},
		"damaged": func(t *testing.T, path string) { overwrite(t, path, "nothing that is a database") },
		"after a crash": func(t *testing.T, path string) {
			overwrite(t, path+"-wal", "left by a process that was killed")
			overwrite(t, path+"-shm", "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "keygate.db")
			s := openTest(t, path)
			fillKeys(t, s, 0, 3)
			file := backupOf(t, s)
			fillKeys(t, s, 3, 5)
			s.Close()
			harm(t, path)
			former := make(map[string]string)
			for _, ext := range []string{"", "-wal", "-shm"} {
				if b, err := os.ReadFile(path + ext); err == nil {
					former[ext] = string(b)
				}
			}
			done, err := Restore(t.Context(), file, path, quiet, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			for ext, want := range former {
				if b, err := os.ReadFile(done.Aside + ext); err != nil || string(b) != want {
					t.Errorf("the former database%s is not as it was: %v", ext, err)
				}
			}
			entries, err := os.ReadDir(filepath.Dir(path))
			if err != nil || len(entries) != 2+len(former) { // the database, its lock file and the former files
				t.Errorf("the directory holds %v, %v", entries, err)
			}
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
			restored := openTest(t, path)
			if err := findSecret(t, restored, 2); err != nil {
				t.Error(err)
			}
			if findSecret(t, restored, 3) == nil {
				t.Error("the restored database holds a key that is newer than the backup")
			}
		})
	}
}

// TestRestoreKeepsRevocations checks that a restore keeps the revocations of the former database, even
// if a backup restored in between did not know the revoked keys. The epoch must rise with each restore.
func TestRestoreKeepsRevocations(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keygate.db")
	s := openTest(t, path)
	fillKeys(t, s, 0, 1)
	first := backupOf(t, s)
	fillKeys(t, s, 1, 4)
	if err := s.Update(t.Context(), func(tx management.Tx) error {
		return tx.(auth.Tx).InsertSession(&auth.Session{ID: "ses_1", Keyspace: ks, Digest: []byte{1}, CreatedAt: time.Now(), LastUsedAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour)})
	}); err != nil {
		t.Fatal(err)
	}
	known := backupOf(t, s)
	revoke := func(s *Store, id string) error {
		return s.Update(t.Context(), func(tx management.Tx) error {
			k, err := tx.Key(ks, id)
			if err != nil {
				return err
			}
			k.RevokedAt = time.Now()
			return tx.UpdateKey(k)
		})
	}
	for i := range 3 {
		if err := revoke(s, keyOf(i)); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
	var kept []string
	keep := func(_ context.Context, s *Store, r management.Revocation) error {
		kept = append(kept, r.Action+" "+r.ID)
		return revoke(s, r.ID)
	}
	epoch := int64(1)
	for _, c := range []struct {
		backup  string
		keep    RevocationWriter
		kept    int
		revoked []int // revoked lists the numbers of the keys that are revoked in the backup.
	}{
		{first, keep, 1, []int{0}},
		{known, keep, 3, []int{0, 1, 2}},
		{first, keep, 1, []int{0}},
		{first, keep, 1, []int{0}},
		{known, keep, 3, []int{0, 1, 2}},
		{known, keep, 3, []int{0, 1, 2}},
		{known, nil, 0, nil},
		{known, keep, 0, nil},
	} {
		kept = nil
		done, err := Restore(t.Context(), c.backup, path, quiet, nil, c.keep)
		if err != nil || done.Revocations != c.kept || len(kept) != c.kept || done.Unread != nil {
			t.Fatalf("restored: %+v, %v, %v", done, kept, err)
		}
		s, err := Open(t.Context(), path, quiet)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 4 {
			if err := s.View(t.Context(), func(tx management.Tx) error {
				k, err := tx.Key(ks, keyOf(i))
				if errors.Is(err, gateway.ErrNotFound) {
					return nil
				}
				if err == nil && k.RevokedAt.IsZero() == slices.Contains(c.revoked, i) {
					t.Errorf("key %d: %v", i, k.RevokedAt)
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.View(t.Context(), func(tx management.Tx) error {
			_, err := tx.(auth.Tx).Session(ks, "ses_1")
			return err
		}); (err == nil) != (c.keep == nil) {
			t.Errorf("the session: %v", err)
		}
		if got, err := s.Epoch(t.Context()); err != nil || got <= epoch {
			t.Errorf("epoch %d after %d, %v", got, epoch, err)
		} else {
			epoch = got
		}
		s.Close()
	}
	errRejected := errors.New("not now")
	s = openTest(t, path)
	if err := revoke(s, keyOf(1)); err != nil {
		t.Fatal(err)
	}
	s.Close()
	for _, fails := range []RevocationWriter{
		func(context.Context, *Store, management.Revocation) error { return errRejected },
		func(context.Context, *Store, management.Revocation) error { return nil }, // The writer reports success but writes nothing.
	} {
		if _, err := Restore(t.Context(), known, path, quiet, nil, fails); err == nil {
			t.Error("restored although a revocation could not be written")
		}
	}
	overwrite(t, path, "nothing that is a database")
	done, err := Restore(t.Context(), known, path, quiet, nil, keep)
	if err != nil || done.Unread == nil || done.Revocations != 0 {
		t.Errorf("restored: %+v, %v", done, err)
	}
	if got, err := openTest(t, path).Epoch(t.Context()); err != nil || got <= epoch {
		t.Errorf("epoch %d after %d, %v", got, epoch, err)
	}
	if left, err := filepath.Glob(path + ".former-*"); err != nil || len(left) != 0 {
		t.Errorf("files left behind: %v, %v", left, err)
	}
}

func overwrite(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestRestoreRejectsBackup checks that a backup which can't be used leaves the database unchanged.
func TestRestoreRejectsBackup(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keygate.db")
	s := openTest(t, path)
	fillKeys(t, s, 0, 300)
	good := backupOf(t, s)
	s.Close()
	altered := func(f func(path string)) string {
		b, err := os.ReadFile(good)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "backup")
		overwrite(t, file, string(b))
		f(file)
		return file
	}
	for name, c := range map[string]struct{ file, text string }{
		"missing":      {filepath.Join(t.TempDir(), "none"), "no such file"},
		"itself":       {path, "the database itself"},
		"empty":        {altered(func(p string) { overwrite(t, p, "") }), "empty"},
		"no database":  {altered(func(p string) { overwrite(t, p, strings.Repeat("text ", 1000)) }), "not a database"},
		"cut short":    {altered(func(p string) { os.Truncate(p, 8<<10) }), ""},
		"with its log": {altered(func(p string) { overwrite(t, p+"-wal", "x") }), "write-ahead log"},
		"newer": {altered(func(p string) {
			db := raw(t, p)
			mustExec(t, db, `INSERT INTO schema_version (version, name, at) VALUES (9999, 'later', 0); UPDATE meta SET value = '9999' WHERE name = 'oldest_program'`)
			db.Close()
		}), "newer"},
		"a directory":       {t.TempDir(), "regular"},
		"another program's": {altered(func(p string) { os.Remove(p); db := raw(t, p); mustExec(t, db, `CREATE TABLE other (x)`); db.Close() }), "another program"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Restore(t.Context(), c.file, path, quiet, nil, nil); err == nil || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%v", err)
			}
		})
	}
	errRejected := errors.New("not this one")
	if _, err := Restore(t.Context(), good, path, quiet, func(context.Context, *Store) error { return errRejected }, nil); !errors.Is(err, errRejected) {
		t.Errorf("the error of the check is not returned: %v", err)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 2 { // the database and its lock file
		t.Errorf("files left behind: %v, %v", entries, err)
	}
	if err := findSecret(t, openTest(t, path), 299); err != nil {
		t.Error(err)
	}
}
