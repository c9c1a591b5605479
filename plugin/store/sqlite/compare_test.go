package sqlite

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/management/auth"
	"github.com/keygate-dev/keygate/plugin/store/replication"
	"github.com/keygate-dev/keygate/plugin/store/sqlstore"
)

// TestCompare checks the state that a store returns for each revocation of a list: the store holds the
// revocation, lacks it, has reversed it, or does not know the id. SQLite and PostgreSQL must agree.
func TestCompare(t *testing.T) {
	for name, open := range map[string]func(*testing.T) (*sqlstore.Store, replication.Source){
		"sqlite": func(t *testing.T) (*sqlstore.Store, replication.Source) {
			s := openTest(t, filepath.Join(t.TempDir(), "keygate.db"))
			return s.Store, s.Source
		},
		"postgres": func(t *testing.T) (*sqlstore.Store, replication.Source) {
			s := openPostgres(t)
			return s.Store, s.Source
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, source := open(t)
			created := time.Now().UTC().Truncate(time.Microsecond).Add(-time.Hour)
			then := created.Add(time.Minute)
			const good, disabled, enabled, revoked, deleted = 0, 1, 2, 3, 4
			if err := s.Update(t.Context(), func(tx management.Tx) error {
				for slug, change := range map[string]func(*gateway.Tenant){
					"acme": func(*gateway.Tenant) {}, "Idle": func(in *gateway.Tenant) { in.Active = false },
					"gone": func(in *gateway.Tenant) { in.Active, in.DeletedAt = false, then },
				} {
					in := &gateway.Tenant{Keyspace: ks, Slug: slug, Plan: "free", Active: true, CreatedAt: created, UpdatedAt: created}
					change(in)
					if err := tx.InsertTenant(in); err != nil {
						return err
					}
				}
				for i := good; i <= deleted; i++ {
					if err := addKey(tx, i); err != nil {
						return err
					}
					k, err := tx.Key(ks, keyOf(i))
					if err != nil {
						return err
					}
					switch i {
					case disabled:
						k.Disabled = true
					case revoked:
						k.RevokedAt = then
					case deleted:
						k.DeletedAt = then
					}
					if err := tx.UpdateKey(k); err != nil {
						return err
					}
				}
				list, err := tx.Secrets(ks, keyOf(disabled))
				if err != nil {
					return err
				}
				list[0].ExpiresAt = then
				if err := tx.UpdateSecret(list[0]); err != nil {
					return err
				}
				for i, at := range []time.Time{{}, then} {
					if err := tx.(auth.Tx).InsertToken(&management.Token{ID: fmt.Sprint("tok_", i), Keyspace: ks, Scopes: []string{"*"}, Digest: []byte{byte(i)},
						CreatedAt: created, RevokedAt: at}); err != nil {
						return err
					}
				}
				for i, key := range []string{keyOf(enabled), ""} {
					if err := tx.InsertAudit(&audit.Row{Seq: int64(i + 1), ID: fmt.Sprint("evt_", i), Keyspace: ks, At: then,
						Action: []string{"key.enabled", "tenant.activated"}[i], Tenant: "acme", KeyID: key, Hash: []byte{1}}); err != nil {
						return err
					}
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			secret := func(i int) string { return fmt.Sprintf("sec_%026d", i) }
			before, after := then.Add(-time.Second), then.Add(time.Second)
			var list []management.Revocation
			var want []replication.RevocationState
			add := func(state replication.RevocationState, r management.Revocation) {
				if r.Keyspace == "" {
					r.Keyspace = ks
				}
				list, want = append(list, r), append(want, state)
			}
			for _, c := range []struct {
				key                                 int
				onDisabling, onRevoking, onDeleting replication.RevocationState
			}{
				{good, replication.NotRevoked, replication.NotRevoked, replication.NotRevoked}, {disabled, replication.Revoked, replication.NotRevoked, replication.NotRevoked}, {enabled, replication.Reversed, replication.NotRevoked, replication.NotRevoked}, {revoked, replication.Revoked, replication.Revoked, replication.NotRevoked},
				{deleted, replication.Revoked, replication.Revoked, replication.Revoked}, {99, replication.UnknownID, replication.UnknownID, replication.UnknownID},
			} {
				add(c.onDisabling, management.Revocation{Action: management.KeyDisabled, ID: keyOf(c.key), At: before})
				add(c.onRevoking, management.Revocation{Action: management.KeyRevoked, ID: keyOf(c.key), At: before})
				add(c.onDeleting, management.Revocation{Action: management.KeyDeleted, ID: keyOf(c.key), At: before})
			}
			add(replication.NotRevoked, management.Revocation{Action: management.KeyDisabled, ID: keyOf(enabled), At: after})
			add(replication.UnknownID, management.Revocation{Action: management.KeyRevoked, ID: keyOf(good), Keyspace: "other"})
			add(replication.Reversed, management.Revocation{Action: management.TenantSuspended, ID: "acme", Created: created, At: before})
			add(replication.NotRevoked, management.Revocation{Action: management.TenantSuspended, ID: "acme", Created: created, At: after})
			add(replication.NotRevoked, management.Revocation{Action: management.TenantDeleted, ID: "acme", Created: created, At: before})
			add(replication.UnknownID, management.Revocation{Action: management.TenantDeleted, ID: "acme", Created: created.Add(-time.Hour), At: before})
			add(replication.NotRevoked, management.Revocation{Action: management.TenantDeleted, ID: "acme", At: before})
			add(replication.Revoked, management.Revocation{Action: management.TenantSuspended, ID: "idle", Created: created, At: before})
			add(replication.NotRevoked, management.Revocation{Action: management.TenantDeleted, ID: "IDLE", Created: created, At: before})
			add(replication.Revoked, management.Revocation{Action: management.TenantSuspended, ID: "gone", Created: created, At: before})
			add(replication.UnknownID, management.Revocation{Action: management.TenantSuspended, ID: "never", Created: created, At: before})
			add(replication.NotRevoked, management.Revocation{Action: management.SecretEnded, ID: secret(good), Key: keyOf(good), At: before})
			add(replication.NotRevoked, management.Revocation{Action: management.SecretEnded, ID: secret(disabled), Key: keyOf(disabled), At: before})
			add(replication.Revoked, management.Revocation{Action: management.SecretEnded, ID: secret(disabled), Key: keyOf(disabled), At: after})
			add(replication.Revoked, management.Revocation{Action: management.SecretEnded, ID: secret(revoked), Key: keyOf(revoked), At: before})
			add(replication.UnknownID, management.Revocation{Action: management.SecretEnded, ID: "sec_none", Key: keyOf(good), At: before})
			add(replication.NotRevoked, management.Revocation{Action: management.TokenRevoked, ID: "tok_0", At: before})
			add(replication.Revoked, management.Revocation{Action: management.TokenRevoked, ID: "tok_1", At: before})
			add(replication.UnknownID, management.Revocation{Action: management.TokenRevoked, ID: "tok_2", At: before})
			got, err := source.CompareRevocations(t.Context(), list)
			if err != nil || len(got) != len(want) {
				t.Fatalf("%d answers, %v", len(got), err)
			}
			for i, r := range list {
				if got[i] != want[i] {
					t.Errorf("%+v: %d, want %d", r, got[i], want[i])
				}
			}
			// Every revocation that the store's rows show counts as Revoked.
			n := 0
			if err := source.RowRevocations(t.Context(), func(list []management.Revocation) error {
				n += len(list)
				states, err := source.CompareRevocations(t.Context(), list)
				for i, r := range list {
					if states[i] != replication.Revoked {
						t.Errorf("its own %+v: %d", r, states[i])
					}
				}
				return err
			}); err != nil || n != 7 {
				t.Errorf("%d of its own, %v", n, err)
			}
		})
	}
}
