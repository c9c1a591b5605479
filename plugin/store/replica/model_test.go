package replica_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
)

// modelKey is what is known of a key whatever happened.
type modelKey struct {
	id, full, tenant string
	// refused: an acknowledged write did so, and no later one took it back. final: by one that
	// can't be taken back.
	refused, final bool
	// sure says that it must be let in: nothing that was not answered may have refused it, and
	// no rollback may have taken it away.
	sure bool
}

type model struct {
	*node
	t       *testing.T
	rng     *rand.Rand
	keys    []*modelKey
	suspend map[string]bool
	backups []string
	// back says that the truth went back and the node may not have followed it yet. Should it go
	// back again before, what was being written back is not held to outlive it.
	back bool
	log  []string
}

func (m *model) note(format string, args ...any) { m.log = append(m.log, fmt.Sprintf(format, args...)) }

// step does one thing at random.
func (m *model) step() {
	up := !m.down.Load()
	pick := func() *modelKey {
		if len(m.keys) == 0 {
			return nil
		}
		return m.keys[m.rng.IntN(len(m.keys))]
	}
	ctx := ctxOf(m.t)
	switch n := m.rng.IntN(100); {
	case n < 20:
		tenant := fmt.Sprint("t", m.rng.IntN(3))
		k, err := m.CreateKey(ctx, ada, ks, tenant, management.KeyFields{Name: management.Some("k")})
		if err == nil {
			m.note("created %s", k.ID)
			m.keys = append(m.keys, &modelKey{id: k.ID, full: k.Key, tenant: tenant, sure: true})
		} else if up && !errors.Is(err, gateway.ErrStore) {
			m.t.Fatalf("creating: %v\n%v", err, m.log)
		}
	case n < 45:
		k := pick()
		if k == nil {
			return
		}
		action := []string{management.KeyRevoked, management.KeyDisabled, management.KeyDisabled, management.KeyDeleted}[m.rng.IntN(4)]
		var err error
		switch action {
		case management.KeyRevoked:
			_, err = m.RevokeKey(ctx, ada, ks, k.id)
		case management.KeyDisabled:
			_, err = m.DisableKey(ctx, ada, ks, k.id)
		case management.KeyDeleted:
			err = m.DeleteKey(ctx, ada, ks, k.id, nil)
		}
		m.note("%s %s: %v", action, k.id, err)
		k.sure = false
		if acknowledged(err) {
			k.refused, k.final = true, k.final || action != management.KeyDisabled
		}
	case n < 55:
		if k := pick(); k != nil {
			_, err := m.EnableKey(ctx, ada, ks, k.id)
			m.note("enable %s: %v", k.id, err)
			if err == nil && !k.final {
				k.refused = false
			}
		}
	case n < 60:
		slug := fmt.Sprint("t", m.rng.IntN(3))
		if m.rng.IntN(2) == 0 {
			_, err := m.SuspendTenant(ctx, ada, ks, slug)
			m.note("suspend %s: %v", slug, err)
			if acknowledged(err) {
				m.suspend[slug] = true
			} else {
				m.unsure(slug)
			}
		} else {
			_, err := m.ActivateTenant(ctx, ada, ks, slug)
			m.note("activate %s: %v", slug, err)
			if err == nil {
				m.suspend[slug] = false
			}
		}
	case n < 75:
		m.down.Store(!m.down.Load())
		m.note("down: %v", m.down.Load())
	case n < 82:
		m.restart()
		m.note("restarted")
	case n < 88:
		m.backups = append(m.backups, m.backup())
		m.note("backup %d", len(m.backups)-1)
	case n < 92:
		if m.back && !up {
			return
		}
		if m.back {
			m.settled()
		}
		if len(m.backups) > 0 {
			m.back = true
			i := m.rng.IntN(len(m.backups))
			m.node.restore(m.backups[i])
			m.note("restored %d", i)
			// Those after it are of a history that is over: where the truth lacks a key, its
			// refusals are done with, and none stands in the way of the key's return.
			m.backups = m.backups[:i+1]
			for _, k := range m.keys {
				k.sure = false
			}
		}
	case n < 96:
		time.Sleep(time.Duration(m.rng.IntN(30)) * time.Millisecond)
	default:
		if up {
			m.settled()
			m.back = false
			m.note("settled")
		}
	}
}

func (m *model) unsure(tenant string) {
	for _, k := range m.keys {
		if k.tenant == tenant {
			k.sure = false
		}
	}
}

// check judges every key.
func (m *model) check() {
	for _, k := range m.keys {
		got := m.judge(k.full)
		if got == gateway.Allowed && (k.refused || m.suspend[k.tenant]) {
			m.t.Fatalf("%s is let in, though refused: %+v, tenant suspended: %v\n%v", k.id, *k, m.suspend[k.tenant], m.log)
		}
	}
}

// TestRefusalsHold lets everything happen that may, and holds the node to it that what was
// refused with an acknowledged write is never let in without a later one.
func TestRefusalsHold(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			n := newNode(t, filepath.Join(t.TempDir(), "truth.db"))
			m := &model{node: n, t: t, rng: rand.New(rand.NewPCG(seed, 1)), suspend: map[string]bool{}}
			for i := range 3 {
				n.tenant(fmt.Sprint("t", i))
			}
			m.backups = append(m.backups, m.backup())
			for range 60 {
				m.step()
				m.check()
			}
			m.down.Store(false)
			m.settled()
			m.check()
			for _, k := range m.keys {
				if got := m.judge(k.full); got != gateway.Allowed && k.sure && !m.suspend[k.tenant] {
					t.Errorf("%s is refused: %v\n%v", k.id, got, m.log)
				}
			}
			sameRows(t, n)
		})
	}
}

// sameRows holds the replica to the truth, row by row.
func sameRows(t *testing.T, n *node) {
	t.Helper()
	dump := func(s management.Store) (out []string) {
		if err := s.View(ctxOf(t), func(tx management.Tx) error {
			out = nil
			tenants, err := tx.Tenants(management.TenantQuery{Keyspace: ks})
			if err != nil {
				return err
			}
			for _, one := range tenants {
				out = append(out, fmt.Sprintf("%+v", *one))
			}
			keys, err := tx.Keys(management.KeyQuery{Keyspace: ks, Now: time.Now()})
			if err != nil {
				return err
			}
			for _, k := range keys {
				// When it was last used is no change.
				k.LastUsedAt, k.LastUsedIP = time.Time{}, ""
				secrets, err := tx.Secrets(ks, k.ID)
				if err != nil {
					return err
				}
				for i := range secrets {
					secrets[i].LastUsedAt, secrets[i].LastUsedIP = time.Time{}, ""
				}
				out = append(out, fmt.Sprintf("%+v %+v", *k, secrets))
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return out
	}
	want := dump(n.truth.Store)
	n.down.Store(true)
	defer n.down.Store(false)
	if got := dump(n.r); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the replica holds\n%v\nthe truth\n%v", got, want)
	}
}
