package keytable

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/keygate-dev/keygate/plugin/apikey"
)

// After wrong guesses a comparison waits until the budget covers them, or fails when its context
// ends.
func TestComparerCharges(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("key"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	c, id := newComparer(), hintID{"a", apikey.Hint{1}}
	for key, want := range map[string]bool{"key": true, "kez": false} {
		if ok, cost, err := c.equal(t.Context(), id, string(hash), keyQuery{key: key}); err != nil || ok != want || cost <= 0 {
			t.Errorf("%s: %v for %v, %v", key, ok, cost, err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		c := newComparer()
		// The charge is the cost of guesses that used the whole burst and five more seconds of a processor.
		done, err := c.Enter(t.Context(), id, netip.Addr{}, false)
		if err != nil {
			t.Fatal(err)
		}
		done(guessingBurst + 5)
		begun := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), slowTimeout)
		defer cancel()
		if _, _, err := c.equal(ctx, id, string(hash), keyQuery{key: "key"}); !errors.Is(err, errBusy) || !errors.Is(err, ErrStore) {
			t.Errorf("while the budget is overdrawn: %v", err)
		}
		if _, _, err := c.equal(t.Context(), id, string(hash), keyQuery{key: "key"}); err != nil {
			t.Error(err)
		}
		if waited := time.Since(begun); waited < 50*time.Second || waited > 51*time.Second {
			t.Errorf("waited %v for five seconds at a tenth of a processor", waited)
		}
	})
}
