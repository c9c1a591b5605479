package sqlite

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
)

// TestCancelledCommit cancels writes at random moments, even during the commit. A write that returned no
// error must have happened, and a write that failed must not have happened. The counting of credits
// relies on this rule, because it repeats failed writes.
func TestCancelledCommit(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "keygate.db"))
	done := 0
	for i := range 400 {
		slug := fmt.Sprintf("tenant-%d", i)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			time.Sleep(time.Duration(rand.IntN(2500)) * time.Microsecond)
			cancel()
		}()
		err := s.Update(ctx, func(tx management.Tx) error {
			return tx.InsertTenant(&gateway.Tenant{Keyspace: "default", Slug: slug, Name: slug, Plan: "free", Active: true, CreatedAt: time.Now(), UpdatedAt: time.Now()})
		})
		cancel()
		found := s.View(t.Context(), func(tx management.Tx) error {
			_, err := tx.Tenant("default", slug)
			return err
		})
		switch {
		case err == nil && found == nil:
			done++
		case err != nil && errors.Is(found, gateway.ErrNotFound):
		default:
			t.Fatalf("the update returned %v, but looking for its row returned %v", err, found)
		}
	}
	if done == 0 || done == 400 {
		t.Fatalf("%d of 400 updates were committed, so only one outcome was tested", done)
	}
}
