package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"unsafe"
)

// TestDiskFull fills the disk of the store, and later frees space again. The gateway must serve known keys
// and recover.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m,mode=0700"); err != nil {
		t.Logf("no small disk can be mounted (%v): only TestDiskQuota tests a full disk", err)
		return
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	p := startDiskSite(t, dir)
	ballast := filepath.Join(dir, "ballast")
	fill(t, ballast)
	p.createUntilRejected(t)
	fill(t, ballast)
	p.keepsServing(t, true)
	p.reportsFailure(t)
	p.reload(t, caddyfile(diskPlans, "keygate\n\theader X-Version 2"))
	p.call(t, "GET", "/", p.known.full).passed()
	p.logged(t, "is full, or its quota is used up: free some space")
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	p.recovers(t)
}

// fill writes to a file until the disk is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 64<<10)
	for len(block) > 0 {
		if _, err = f.Write(block); errors.Is(err, syscall.ENOSPC) {
			block = block[:len(block)/2]
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// TestDiskQuota limits the size of files, as a disk quota does, so that the store's files can't grow. The
// test needs no privileges.
func TestDiskQuota(t *testing.T) {
	t.Parallel()
	p := startDiskSite(t, "")
	const size = 1 << 20
	p.limit(t, size)
	p.createUntilRejected(t)
	// Small writes may still fit into the write-ahead log when large writes fail. So the gateway is not
	// degraded all the time.
	p.keepsServing(t, true)
	p.limit(t, ^uint64(0))
	p.recovers(t)
}

// limit sets the maximum size of files that the gateway's process may write.
func (p *diskSite) limit(t *testing.T, size uint64) {
	t.Helper()
	limit := struct{ soft, hard uint64 }{size, ^uint64(0)}
	_, _, errno := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, uintptr(p.process.Process.Pid), syscall.RLIMIT_FSIZE,
		uintptr(unsafe.Pointer(&limit)), 0, 0, 0)
	runtime.KeepAlive(&limit)
	if errno != 0 {
		t.Fatalf("limiting the size of files: %v", errno)
	}
}
