//go:build soak

package sqlite

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// bind mounts a file or directory over another one. The mount ends with the test.
func bind(t *testing.T, from, over string) {
	t.Helper()
	if err := syscall.Mount(from, over, "", syscall.MS_BIND, ""); err != nil {
		t.Fatalf("this test mounts directories, for which it needs root with CAP_SYS_ADMIN: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(over, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

func TestDatabaseFileMountedByItself(t *testing.T) {
	host, container := t.TempDir(), filepath.Join(t.TempDir(), "with blank")
	if err := os.Mkdir(container, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{host, container} {
		if err := os.WriteFile(filepath.Join(dir, "keygate.db"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(container, "keygate.db")
	bind(t, filepath.Join(host, "keygate.db"), path)
	s, err := Open(context.Background(), path, slog.New(slog.DiscardHandler))
	if err == nil {
		s.Close()
		t.Fatal("the database was opened")
	}
	if text := err.Error(); !strings.Contains(text, path) || !strings.Contains(text, "mount the directory") {
		t.Errorf("the error names no remedy: %v", err)
	}
	if files, err := os.ReadDir(container); err != nil || len(files) != 1 {
		t.Errorf("the rejected start left %v behind (%v)", files, err)
	}
}

func TestDirectoryOfDatabaseMounted(t *testing.T) {
	host, container := t.TempDir(), t.TempDir()
	bind(t, host, container)
	s, err := Open(context.Background(), filepath.Join(container, "keygate.db"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}
