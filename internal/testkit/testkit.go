// Package testkit holds what the tests of many packages need: waiting, a clock that can be moved, a log that can be
// read. Servers are in testserver, stores in teststore.
package testkit

import (
	"bytes"
	"sync"
	"testing"
	"time"
)

// Patience is how long a test waits for an event that always comes. It promises nothing about the code
// under test: it only tells a test that hangs from one on a busy machine.
const Patience = time.Minute

// Eventually waits until ok returns true, and fails the test after Patience. event names the event that the test waits for.
func Eventually(t testing.TB, event string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(Patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", Patience, event)
		}
	}
}

// Must returns a function that takes the results of a call and returns the value. It fails the test where
// there is an error:
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

// Clock is the current time and what was added to it. Its zero value is the current time. Safe for concurrent use.
type Clock struct {
	mu    sync.Mutex
	ahead time.Duration
}

// Now returns the clock's time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

// Advance adds d to the clock.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}

// Buffer collects text, such as a log's. Safe for concurrent use.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// String returns all that was written.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
