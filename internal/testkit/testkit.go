// Package testkit holds helpers for the tests of many packages: waiting for events, a clock that
// can be moved, and a log that can be read. The package testserver starts servers, teststore opens
// stores.
package testkit

import (
	"bytes"
	"sync"
	"testing"
	"time"
)

// Patience limits how long a test waits for an event that always comes. It is long, so that a busy
// machine fails no test; only a test that hangs reaches it.
const Patience = time.Minute

// Eventually waits until ok returns true, and fails the test after Patience. event names the event
// that the test waits for. It calls ok at intervals that grow from 1 to 50 ms, since calls of ok
// slow down what the test waits for.
func Eventually(t testing.TB, event string, ok func() bool) {
	t.Helper()
	interval := time.Millisecond
	for deadline := time.Now().Add(Patience); !ok(); time.Sleep(interval) {
		interval = min(interval*3/2, 50*time.Millisecond)
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", Patience, event)
		}
	}
}

// Must returns a function that takes the results of a call and returns the value. An error fails
// the test:
//
//	hasher := testkit.Must[*apikey.Hasher](t)(apikey.NewHasher())
func Must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// Clock is a clock that tests can move forward. The zero value shows the current time. Safe for
// concurrent use.
type Clock struct {
	mu    sync.Mutex
	ahead time.Duration
}

// Now returns the current time plus all that Advance has added.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

// Advance moves the clock forward by d.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}

// Buffer collects written text, such as a log. Safe for concurrent use.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// String returns everything written so far.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
