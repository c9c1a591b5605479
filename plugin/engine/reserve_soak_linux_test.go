//go:build soak

package engine_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/engine"
	"github.com/keygate-dev/keygate/plugin/gateway"
)

// A revocation is taken while the disk of the SQLite file is full, and is written when there is space again.
func TestRevocationOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=3m"); err != nil {
		t.Fatalf("this test mounts a small file system, for which it needs root with CAP_SYS_ADMIN: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	e, c := newEngine(t, engine.Options{Target: engine.Target{Path: filepath.Join(dir, "keygate.db")}}), newConfig(t, "free")
	apply(t, e, c)
	key := createKey(t, e)
	var d gateway.Decision
	e.Gateway().Check(t.Context(), &gateway.Request{View: c.View, Keyspace: c.View.Keyspaces[keyspace], Credential: key}, &d)
	id := d.Key.ID
	d.Done()
	fill := testkit.Must[*os.File](t)(os.Create(filepath.Join(dir, "fill")))
	for {
		if _, err := fill.Write(make([]byte, 512)); err != nil {
			break
		}
	}
	fill.Close()
	r, err := e.Manager().RevokeKey(t.Context(), operator, keyspace, id)
	if err != nil || r.Durable || r.Cause == "" {
		t.Fatalf("the receipt is %+v, %v", r, err)
	}
	if r := check(e, c, key); r != gateway.RevokedKey {
		t.Errorf("the key is answered with %s", r)
	}
	if err := os.Remove(fill.Name()); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the revocation is in the database", func() bool { return pending(e) == 0 })
	if r, err := e.Manager().RevokeKey(t.Context(), operator, keyspace, id); err != nil || !r.Durable {
		t.Errorf("the receipt is %+v, %v", r, err)
	}
}
