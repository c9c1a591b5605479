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

// The disk that holds the store is full, and then it is not.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m,mode=0700"); err != nil {
		t.Logf("no small disk can be mounted (%v): only the limit of a file's size is tried", err)
		return
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	p := admit(t, dir)
	ballast := filepath.Join(dir, "ballast")
	fill(t, ballast)
	p.untilRefused(t)
	fill(t, ballast)
	p.goesOn(t, true)
	p.saysSo(t)
	p.reload(t, caddyfile(diskPlans, "keygate\n\theader X-Version 2"))
	p.call(t, "GET", "/", p.known.full).passed()
	p.logged(t, "is full, or its quota is used up: free some space")
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	p.recovers(t)
}

// fill writes to a file until its disk is full.
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

// The store's files may not grow any more, as under a quota. Needs no privilege.
func TestDiskQuota(t *testing.T) {
	t.Parallel()
	p := admit(t, "")
	const size = 1 << 20
	p.limit(t, size)
	p.untilRefused(t)
	// Small writes find room in the log that large ones did not, so it is not degraded all the time.
	p.goesOn(t, true)
	p.limit(t, ^uint64(0))
	p.recovers(t)
}

// limit bounds the size of the files that the process writes.
func (p *patient) limit(t *testing.T, size uint64) {
	t.Helper()
	limit := struct{ soft, hard uint64 }{size, ^uint64(0)}
	_, _, errno := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, uintptr(p.process.Process.Pid), syscall.RLIMIT_FSIZE,
		uintptr(unsafe.Pointer(&limit)), 0, 0, 0)
	runtime.KeepAlive(&limit)
	if errno != 0 {
		t.Fatalf("limiting the size of files: %v", errno)
	}
}
