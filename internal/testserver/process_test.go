package testserver

import (
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

// A port that FreePort returned is reserved: no second call and no other process gets it.
func TestFreePort(t *testing.T) {
	port, err := FreePort()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(os.TempDir(), "keygate-test-ports", strconv.Itoa(port)), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != syscall.EWOULDBLOCK {
		t.Errorf("the lock of port %d is free: %v", port, err)
	}
	if lockPort(port) {
		t.Error("the port was reserved twice")
	}
}
