package gateway

import (
	"context"
	"errors"
	"sync"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/keygate-dev/keygate/plugin/apikey"
)

// Who floods one lead fills that lead's places and no other's; what left is forgotten.
func TestComparerIsBounded(t *testing.T) {
	c := newComparer()
	ctx, cancel := context.WithCancel(t.Context())
	flooded, other := leadID{"a", apikey.Lead{1}}, leadID{"a", apikey.Lead{2}}
	leave, err := c.enter(ctx, flooded)
	if err != nil {
		t.Fatal(err)
	}
	var waiting sync.WaitGroup
	refused := make(chan struct{}, 10*waitingPerLead)
	for range 10 * waitingPerLead {
		waiting.Go(func() {
			if _, err := c.enter(ctx, flooded); errors.Is(err, errBusy) && errors.Is(err, ErrStore) {
				refused <- struct{}{}
			}
		})
	}
	// The one inside and those who wait fill the lead; all others are told at once.
	for range 10*waitingPerLead - (waitingPerLead - 1) {
		<-refused
	}
	leaveOther, err := c.enter(ctx, other)
	if err != nil {
		t.Errorf("another lead: %v", err)
	} else {
		leaveOther()
	}
	cancel()
	waiting.Wait()
	leave()
	if len(refused) != waitingPerLead-1 || len(c.leads) != 0 || c.all != 0 {
		t.Errorf("%d gave up, %d leads and %d waiting are left", len(refused), len(c.leads), c.all)
	}
}

func TestComparerEnds(t *testing.T) {
	c := newComparer()
	hash, err := bcrypt.GenerateFromPassword([]byte("key"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]bool{"key": true, "kez": false} {
		if ok, err := c.equal(t.Context(), string(hash), key); err != nil || ok != want {
			t.Errorf("%s: %v, %v", key, ok, err)
		}
	}
	for range comparisons {
		c.slots <- struct{}{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.equal(ctx, string(hash), "key"); !errors.Is(err, errBusy) {
		t.Errorf("a third comparison at once: %v", err)
	}
}
