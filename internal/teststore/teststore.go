// Package teststore gives tests an empty store quickly: it copies a prepared file instead of
// creating all tables. Under the race detector, creating them would take most of the time of a
// small test.
package teststore

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/store/sqlite"
)

// SQLite opens the store in the file at path. A missing file is created as an empty store with an
// identity of its own. The caller closes the store.
func SQLite(t testing.TB, path string, log *slog.Logger) *sqlite.Store {
	t.Helper()
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		begin(t, path)
	}
	s, err := sqlite.Open(context.Background(), path, log)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func begin(t testing.TB, path string) {
	t.Helper()
	made, err := template()
	if err != nil {
		t.Fatal(err)
	}
	file := made.file
	for _, secret := range []string{made.id, made.cursorKey} {
		fresh := make([]byte, hex.DecodedLen(len(secret)))
		_, _ = rand.Read(fresh)
		// The values can be replaced in the file itself, since SQLite's pages have no checksums.
		file = bytes.ReplaceAll(file, []byte(secret), []byte(hex.EncodeToString(fresh)))
	}
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
}

// empty is the file of an empty store, and the random values that the file contains.
type empty struct {
	file          []byte
	id, cursorKey string
}

var template = sync.OnceValues(func() (empty, error) {
	dir, err := os.MkdirTemp("", "keygate-teststore-")
	if err != nil {
		return empty{}, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "keygate.db")
	s, err := sqlite.Open(context.Background(), path, slog.New(slog.DiscardHandler))
	if err != nil {
		return empty{}, err
	}
	var made empty
	err = s.View(context.Background(), func(tx management.Tx) error {
		id, key, err := tx.Identity()
		made.id, made.cursorKey = id, hex.EncodeToString(key)
		return err
	})
	if err := errors.Join(err, s.Close()); err != nil {
		return empty{}, err
	}
	if made.file, err = os.ReadFile(path); err != nil {
		return empty{}, err
	}
	for _, secret := range []string{made.id, made.cursorKey} {
		if n := bytes.Count(made.file, []byte(secret)); n != 1 {
			return empty{}, fmt.Errorf("a random value of an empty store is in it %d times", n)
		}
	}
	return made, nil
})
