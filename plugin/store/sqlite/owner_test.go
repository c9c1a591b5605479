//go:build linux || darwin || freebsd || netbsd || openbsd

package sqlite

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
)

// ownerEnv is the environment variable that makes the test binary own the database that its value names.
const ownerEnv = "SQLSTORE_OWNER_DB"

// ownUntilTold owns a database, and prints "owns". After the line "exit" on standard input it announces its end, and
// prints "yields" if another process waits. It releases the database after the next line.
func ownUntilTold(path string) error {
	var exiting atomic.Bool
	own, err := Own(context.Background(), path, OwnOptions{
		Node: "child", Exiting: exiting.Load, Yield: func(*Ownership) { fmt.Println("yields") }, Log: quiet,
	})
	if err != nil {
		return err
	}
	fmt.Println("owns")
	in := bufio.NewScanner(os.Stdin)
	in.Scan()
	exiting.Store(true)
	in.Scan()
	own.Release()
	return nil
}

// owner is a child process that owns a database.
type owner struct {
	*exec.Cmd
	in  io.Writer
	out *bufio.Scanner
}

func startOwner(t *testing.T, path string) *owner {
	t.Helper()
	o := &owner{Cmd: exec.Command(os.Args[0])}
	o.Env = append(os.Environ(), ownerEnv+"="+path)
	in, err := o.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := o.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = o.Process.Kill()
		_ = o.Wait()
	})
	o.in, o.out = in, bufio.NewScanner(out)
	o.reads(t, "owns")
	return o
}

// reads waits for a line of the process.
func (o *owner) reads(t *testing.T, want string) {
	t.Helper()
	if !o.out.Scan() || o.out.Text() != want {
		t.Fatalf("the owner printed %q, want %q", o.out.Text(), want)
	}
}

func TestDatabaseHasOneOwner(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keygate.db")
	o := startOwner(t, path)
	refused := func() {
		t.Helper()
		_, err := Own(t.Context(), path, OwnOptions{Node: "second", Wait: time.Minute, Log: quiet})
		var owned *OwnerError
		if !errors.As(err, &owned) || owned.PID != o.Process.Pid || owned.Node != "child" || owned.Host == "" || time.Since(owned.Started) > time.Hour || owned.Waited != 0 {
			t.Fatalf("a second process got %v", err)
		}
		if !strings.Contains(err.Error(), "stop that process first") {
			t.Errorf("the error names no remedy: %v", err)
		}
	}
	refused()
	// A process that does not run holds the lock too.
	if err := o.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	refused()
	// A killed process leaves its mark in the file, but not its lock.
	if err := o.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = o.Wait()
	own, err := Own(t.Context(), path, OwnOptions{Node: "second", Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	own.Release()
	own.Release()
	startOwner(t, path)
}

func TestOwnerThatStopsIsAwaited(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keygate.db")
	o := startOwner(t, path)
	fmt.Fprintln(o.in, "exit")
	testkit.Eventually(t, "the owner announces its end", func() bool { return readMark(path + ".lock").Draining })
	_, err := Own(t.Context(), path, OwnOptions{Wait: ownerGrace + time.Millisecond, Log: quiet})
	var owned *OwnerError
	if !errors.As(err, &owned) || owned.Waited == 0 || !strings.Contains(err.Error(), "raise `wait`") {
		t.Fatalf("after the wait, the error is %v", err)
	}
	o.reads(t, "yields")
	taken := make(chan error)
	go func() {
		own, err := Own(context.Background(), path, OwnOptions{Wait: time.Minute, Log: quiet})
		if err == nil {
			own.Release()
		}
		taken <- err
	}()
	fmt.Fprintln(o.in, "release")
	if err := <-taken; err != nil {
		t.Error(err)
	}
}

// A process that opens a database again while it still closes the database waits for itself.
func TestOwnerWaitsForItself(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keygate.db")
	first, err := Own(t.Context(), path, OwnOptions{Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	taken := make(chan error)
	go func() {
		second, err := Own(context.Background(), path, OwnOptions{Wait: time.Minute, Log: quiet})
		if err == nil {
			second.Release()
		}
		taken <- err
	}()
	first.Release()
	if err := <-taken; err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	first, _ = Own(t.Context(), path, OwnOptions{Log: quiet})
	defer first.Release()
	if _, err := Own(ctx, path, OwnOptions{Wait: time.Minute, Log: quiet}); !errors.Is(err, context.Canceled) {
		t.Errorf("a canceled wait returned %v", err)
	}
}
