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

// Wrong guesses cost what they take, right keys nothing; and none waits longer than its context.
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
		// As if guesses had taken five seconds of a processor.
		done, err := c.Enter(t.Context(), id, netip.Addr{}, false)
		if err != nil {
			t.Fatal(err)
		}
		done(guessingBurst + 5)
		begun := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), slowTimeout)
		defer cancel()
		if _, _, err := c.equal(ctx, id, string(hash), keyQuery{key: "key"}); !errors.Is(err, errBusy) || !errors.Is(err, ErrStore) {
			t.Errorf("within the budget's debt: %v", err)
		}
		if _, _, err := c.equal(t.Context(), id, string(hash), keyQuery{key: "key"}); err != nil {
			t.Error(err)
		}
		if waited := time.Since(begun); waited < 50*time.Second || waited > 51*time.Second {
			t.Errorf("five seconds at a tenth of a processor were waited for %v", waited)
		}
	})
}
