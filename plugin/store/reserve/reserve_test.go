package reserve

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/internal/teststore"
	"github.com/keygate-dev/keygate/plugin/management"
)

// A damaged reserve does not keep the gateway from starting. The revocations before the damage stay, and the file is renamed.
func TestDamagedReserve(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keygate.db")
	log := new(testkit.Buffer)
	logger := slog.New(slog.NewTextHandler(log, nil))
	first := testkit.Must[*Store](t)(Open(teststore.SQLite(t, path, logger), logger))
	for _, id := range []string{"key_1", "key_2"} {
		first.kept = append(first.kept, management.Revocation{Action: management.KeyRevoked, Keyspace: "default", ID: id, At: time.Now()})
	}
	if err := first.save(first.kept); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	file := path + ".reserve"
	text := testkit.Must[[]byte](t)(os.ReadFile(file))
	if len(text) != fileSize {
		t.Errorf("the reserve has %d bytes, want %d", len(text), fileSize)
	}
	damaged := strings.Replace(string(text), `"key_2"`, `"key_2`, 1)
	if err := os.WriteFile(file, []byte(damaged), 0o600); err != nil {
		t.Fatal(err)
	}
	second := testkit.Must[*Store](t)(Open(teststore.SQLite(t, path, logger), logger))
	defer second.Close()
	if len(second.kept) != 1 || second.kept[0].ID != "key_1" || second.Pending() != 1 {
		t.Errorf("the reserve holds %+v", second.kept)
	}
	aside, err := filepath.Glob(file + ".damaged-*")
	if err != nil || len(aside) != 1 || !strings.Contains(log.String(), aside[0]) {
		t.Errorf("the damaged file is not kept and named: %v, %v, %s", aside, err, log)
	}
	if got := testkit.Must[[]byte](t)(os.ReadFile(aside[0])); string(got) != damaged {
		t.Error("the damaged file was changed")
	}
}

// A reserve that has no room left takes no more revocations, and keeps those that it has.
func TestFullReserve(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keygate.db")
	logger := slog.New(slog.DiscardHandler)
	r := testkit.Must[*Store](t)(Open(teststore.SQLite(t, path, logger), logger))
	defer r.Close()
	long := management.Revocation{Action: management.KeyRevoked, Keyspace: "default", ID: strings.Repeat("x", fileSize/4)}
	list := []management.Revocation{long, long, long}
	if err := r.save(list); err != nil {
		t.Fatal(err)
	}
	if err := r.save(append(list, long)); err == nil {
		t.Fatal("the reserve took more than it has room for")
	}
	if err := r.read(testkit.Must[[]byte](t)(os.ReadFile(path + ".reserve"))); err != nil || len(r.kept) != 3 {
		t.Errorf("the reserve holds %d revocations, %v", len(r.kept), err)
	}
	r.kept = nil
}
