package sqlite

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
)

// TestFlushGivesBackFirst lets one key spend credits that another key of the tenant has just returned.
// The order of the two writes must not matter: the balance ends at zero and there is no shortfall.
func TestFlushGivesBackFirst(t *testing.T) {
	for name, spends := range map[string][]gateway.Spend{
		"spent first":    {{KeyID: "a", Amount: 10}, {KeyID: "b", Amount: -5}},
		"returned first": {{KeyID: "b", Returned: 5}, {KeyID: "a", Amount: 10}},
		"returned last":  {{KeyID: "a", Amount: 10}, {KeyID: "b", Returned: 5}},
	} {
		t.Run(name, func(t *testing.T) {
			s := openTest(t, filepath.Join(t.TempDir(), "keygate.db"))
			if err := s.Update(t.Context(), func(tx management.Tx) error {
				if err := tx.InsertTenant(&gateway.Tenant{Keyspace: "default", Slug: "acme", Name: "Acme", Plan: "free", Active: true, CreatedAt: time.Now(), UpdatedAt: time.Now()}); err != nil {
					return err
				}
				return tx.AddCredits(&management.LedgerEntry{Keyspace: "default", Tenant: "acme", Kind: "add", Amount: 5, At: time.Now()})
			}); err != nil {
				t.Fatal(err)
			}
			for i := range spends {
				spends[i].Keyspace, spends[i].Tenant = "default", "acme"
			}
			if err := s.WriteFlush(t.Context(), "local", &gateway.Flush{At: time.Now(), Spends: spends}); err != nil {
				t.Fatal(err)
			}
			if err := s.View(t.Context(), func(tx management.Tx) error {
				tenant, err := tx.Tenant("default", "acme")
				if err != nil {
					return err
				}
				if tenant.Credits != 0 {
					t.Errorf("the balance is %d, want 0", tenant.Credits)
				}
				entries, err := tx.Ledger(management.LedgerQuery{Keyspace: "default", Tenant: "acme", Limit: 10})
				for _, e := range entries {
					if e.Kind == "shortfall" {
						t.Errorf("a shortfall of %d", e.Amount)
					}
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
		})
	}
}
