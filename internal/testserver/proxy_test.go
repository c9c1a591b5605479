package testserver_test

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testserver"
)

// echo starts a server that returns every byte it receives, and returns its address.
func echo(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	return ln.Addr().String()
}

// round sends a byte and returns the byte that comes back within d. It returns 0 and an error
// where none does.
func round(t *testing.T, conn net.Conn, sent byte, d time.Duration) (byte, error) {
	t.Helper()
	if _, err := conn.Write([]byte{sent}); err != nil {
		return 0, err
	}
	return read(conn, d)
}

func read(conn net.Conn, d time.Duration) (byte, error) {
	b := make([]byte, 1)
	_ = conn.SetReadDeadline(time.Now().Add(d))
	_, err := conn.Read(b)
	return b[0], err
}

func TestProxyHolds(t *testing.T) {
	t.Parallel()
	p := testserver.NewProxy(t, echo(t))
	conn := dial(t, p.Addr())
	if got, err := round(t, conn, 'a', deadline); err != nil || got != 'a' {
		t.Fatalf("%c, %v", got, err)
	}
	p.Hold()
	if got, err := round(t, conn, 'b', 50*time.Millisecond); err == nil {
		t.Fatalf("%c passed a proxy that holds everything", got)
	}
	p.Restore()
	if got, err := read(conn, deadline); err != nil || got != 'b' {
		t.Fatalf("the held byte: %c, %v", got, err)
	}
}

func TestProxyCutsAndRefuses(t *testing.T) {
	t.Parallel()
	p := testserver.NewProxy(t, echo(t))
	conn := dial(t, p.Addr())
	if got, err := round(t, conn, 'a', deadline); err != nil || got != 'a' {
		t.Fatalf("%c, %v", got, err)
	}
	p.Cut()
	if _, err := round(t, conn, 'b', deadline); err == nil {
		t.Fatal("a cut connection still works")
	}
	if got, err := round(t, dial(t, p.Addr()), 'c', deadline); err != nil || got != 'c' {
		t.Fatalf("after the cut: %c, %v", got, err)
	}
	p.Refuse()
	// The connection may be reset during or right after its creation.
	if conn, err := net.Dial("tcp", p.Addr()); err == nil {
		if _, err := round(t, conn, 'd', deadline); err == nil {
			t.Fatal("a proxy that refuses connections serves one")
		}
		conn.Close()
	}
	p.Restore()
	if got, err := round(t, dial(t, p.Addr()), 'e', deadline); err != nil || got != 'e' {
		t.Fatalf("restored: %c, %v", got, err)
	}
}

func TestProxyDelays(t *testing.T) {
	t.Parallel()
	p := testserver.NewProxy(t, echo(t))
	conn := dial(t, p.Addr())
	p.Delay(40 * time.Millisecond)
	began := time.Now()
	if got, err := round(t, conn, 'a', deadline); err != nil || got != 'a' {
		t.Fatalf("%c, %v", got, err)
	}
	if took := time.Since(began); took < 80*time.Millisecond {
		t.Errorf("there and back took %v through a proxy that delays each way by 40 ms", took)
	}
}

// A half-closed connection works through the proxy: the server sees the end, and its answer still
// arrives.
func TestProxyPassesAnEnd(t *testing.T) {
	t.Parallel()
	p := testserver.NewProxy(t, echo(t))
	conn := dial(t, p.Addr())
	if _, err := conn.Write([]byte("all of it")); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(deadline))
	if got, err := io.ReadAll(conn); err != nil || string(got) != "all of it" {
		t.Fatalf("%q, %v", got, err)
	}
}
