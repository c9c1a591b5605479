package replica_test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/store/replica"
)

// TestFileIsItsOwners checks that only the owner may read the files of a replica.
func TestFileIsItsOwners(t *testing.T) {
	t.Parallel()
	n := newNode(t, filepath.Join(t.TempDir(), "primary.db"))
	n.tenant("a")
	n.waitSynced()
	files, err := filepath.Glob(n.file + "*")
	if err != nil || len(files) < 2 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		if info, err := os.Stat(f); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f, info.Mode(), err)
		}
	}
}

// TestReplacedFiles damages or removes the copy, or replaces it by the copy of another store. The node
// must make a new copy.
func TestReplacedFiles(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, n *node){
		"removed": func(t *testing.T, n *node) {
			if err := replica.RemoveCopy(n.file); err != nil {
				t.Fatal(err)
			}
		},
		"cut off": func(t *testing.T, n *node) {
			if err := os.Truncate(n.file, 20_000); err != nil {
				t.Fatal(err)
			}
		},
		"overwritten": func(t *testing.T, n *node) {
			f, err := os.OpenFile(n.file, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			for at := int64(4096); at < 400_000; at += 4096 {
				if _, err := f.WriteAt([]byte(strings.Repeat("\xa5", 4096)), at); err != nil {
					t.Fatal(err)
				}
			}
		},
		"of another store": func(t *testing.T, n *node) {
			other := newNode(t, filepath.Join(t.TempDir(), "other.db"))
			other.tenant("x")
			other.waitSynced()
			other.stop()
			if err := os.Rename(other.file, n.file); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t, filepath.Join(t.TempDir(), "primary.db"))
			n.tenant("a")
			id, full := n.key("a")
			revoked, other := n.key("a")
			n.waitSynced()
			n.stop()
			damage(t, n)
			n.start()
			n.want(full, gateway.Allowed)
			if _, err := n.RevokeKey(ctxOf(t), ada, ks, revoked); err != nil {
				t.Fatal(err)
			}
			n.want(other, gateway.RevokedKey)
			n.waitSynced()
			n.down.Store(true)
			n.want(full, gateway.Allowed)
			n.want(other, gateway.RevokedKey)
			if rec, err := n.r.LookupSecret(ctxOf(t), ks, "nothing"); !errors.Is(err, gateway.ErrNotFound) && !errors.Is(err, gateway.ErrStore) {
				t.Errorf("an unknown secret: %v, %v", rec, err)
			}
			n.down.Store(false)
			if k, err := n.Key(ctxOf(t), ada, ks, id); err != nil || k.ID != id {
				t.Errorf("the key: %+v, %v", k, err)
			}
		})
	}
}

// TestDamagedWhileOpen overwrites the copy of a running node, and checks that the node still accepts
// keys.
func TestDamagedWhileOpen(t *testing.T) {
	t.Parallel()
	n, _, full := newNodeWithKey(t)
	// The write-ahead log holds the changes that were made after the copy. A copy that has just been
	// taken has no log until the next change.
	for i := 0; ; i++ {
		n.tenant("b" + strconv.Itoa(i))
		n.waitSynced()
		if _, err := os.Stat(n.file + "-wal"); err == nil {
			break
		} else if i == 20 {
			t.Fatal(err)
		}
	}
	// Both files are opened before either is overwritten, because the node replaces a damaged copy at once.
	var files []*os.File
	for _, ext := range []string{"", "-wal"} {
		f, err := os.OpenFile(n.file+ext, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		// The test keeps the file open until its end, because closing it would drop the node's locks on it.
		t.Cleanup(func() { f.Close() })
		files = append(files, f)
	}
	for _, f := range files {
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte(strings.Repeat("\xa5", int(info.Size()))), 0); err != nil {
			t.Fatal(err)
		}
	}
	_, second := n.key("a")
	testkit.Eventually(t, "both keys are accepted", func() bool {
		return n.reasonFor(full) == gateway.Allowed && n.reasonFor(second) == gateway.Allowed
	})
}

// TestOtherFilesStay checks that a file which is not a replica is rejected and stays unchanged.
func TestOtherFilesStay(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store := filepath.Join(dir, "keygate.db")
	sqlitePrimary(t, store).Close()
	text := filepath.Join(dir, "notes.txt")
	if err := os.WriteFile(text, []byte(strings.Repeat("my notes ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{store, text, dir} {
		before, _ := os.ReadFile(file)
		primary := sqlitePrimary(t, filepath.Join(t.TempDir(), "primary.db"))
		r, err := replica.Open(t.Context(), replica.Options{File: file, Primary: primary, Logger: quiet})
		if err == nil {
			r.Close()
			t.Fatalf("%s was opened as a replica", file)
		}
		primary.Close()
		if after, _ := os.ReadFile(file); string(after) != string(before) {
			t.Errorf("%s was changed", file)
		}
	}
	if replica.RemoveCopy(store) == nil {
		t.Error("a store was removed as if it were a copy")
	}
}

// TestOneProcessPerFile checks that a second replica on the same file is rejected.
func TestOneProcessPerFile(t *testing.T) {
	t.Parallel()
	n := newNode(t, filepath.Join(t.TempDir(), "primary.db"))
	primary := sqlitePrimary(t, n.path)
	defer primary.Close()
	if r, err := replica.Open(t.Context(), replica.Options{File: n.file, Primary: primary, Logger: quiet}); err == nil {
		r.Close()
		t.Fatal("two replicas were opened on one file")
	}
}
