package replica_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
)

var modelRuns = flag.Int("model.runs", 3, "how many random sequences TestRevocationsHold performs")

// modelKey is what a key's state must be, whatever happens to the node and the primary.
type modelKey struct {
	id, tenant string
	// secrets are all secrets that the key ever had, the newest last.
	secrets []modelSecret
	// revoked is true if an acknowledged write revoked the key and no later write reversed the revocation.
	// final is true if the revocation can't be reversed.
	revoked, final bool
	// certain is true if the node must accept the newest secret: no unacknowledged write may have revoked
	// the key, and no restored backup may lack the key.
	certain bool
}

type modelSecret struct {
	full string
	// ended is true if an acknowledged rotation ended the secret.
	ended bool
}

type model struct {
	*node
	t       *testing.T
	rng     *rand.Rand
	keys    []*modelKey
	suspend map[string]bool
	backups []string
	log     []string
}

// passing is the tenant that the test deletes again and again. The test creates the tenant again if a
// restored backup is older than any tenant of that name.
const passing = "passing"

func (m *model) record(format string, args ...any) {
	m.log = append(m.log, fmt.Sprintf(format, args...))
}

// step performs one random operation on the node or the primary.
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
		tenant := []string{"t0", "t1", "t2", passing}[m.rng.IntN(4)]
		k, err := m.CreateKey(ctx, ada, ks, tenant, management.KeyFields{Name: management.Some("k")})
		if err == nil {
			m.record("created %s", k.ID)
			m.keys = append(m.keys, &modelKey{id: k.ID, secrets: []modelSecret{{full: k.Key}}, tenant: tenant, certain: true})
		} else if up && tenant != passing && !errors.Is(err, gateway.ErrStore) {
			m.t.Fatalf("creating: %v\n%v", err, m.log)
		}
	case n < 27:
		if k := pick(); k != nil {
			m.rotate(k)
		}
	case n < 30:
		m.pass()
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
		m.record("%s %s: %v", action, k.id, err)
		k.certain = false
		if acknowledged(err) {
			k.revoked, k.final = true, k.final || action != management.KeyDisabled
		}
	case n < 55:
		if k := pick(); k != nil {
			_, err := m.EnableKey(ctx, ada, ks, k.id)
			m.record("enable %s: %v", k.id, err)
			if err == nil && !k.final {
				k.revoked = false
			}
		}
	case n < 60:
		slug := fmt.Sprint("t", m.rng.IntN(3))
		if m.rng.IntN(2) == 0 {
			_, err := m.SuspendTenant(ctx, ada, ks, slug)
			m.record("suspend %s: %v", slug, err)
			if acknowledged(err) {
				m.suspend[slug] = true
			} else {
				m.uncertain(slug)
			}
		} else {
			_, err := m.ActivateTenant(ctx, ada, ks, slug)
			m.record("activate %s: %v", slug, err)
			if err == nil {
				m.suspend[slug] = false
			}
		}
	case n < 75:
		m.down.Store(!m.down.Load())
		m.record("down: %v", m.down.Load())
	case n < 82:
		m.restart()
		m.record("restarted")
	case n < 88:
		m.backups = append(m.backups, m.backup())
		m.record("backup %d", len(m.backups)-1)
	case n < 92:
		if len(m.backups) > 0 {
			i := m.rng.IntN(len(m.backups))
			m.node.restore(m.backups[i])
			m.record("restored %d", i)
			for _, k := range m.keys {
				k.certain = false
			}
		}
	case n < 96:
		time.Sleep(time.Duration(m.rng.IntN(30)) * time.Millisecond)
	default:
		if up {
			m.waitSynced()
			m.record("synced")
		}
	}
}

func (m *model) uncertain(tenant string) {
	for _, k := range m.keys {
		if k.tenant == tenant {
			k.certain = false
		}
	}
}

// rotate rotates a key, and records the secrets that the primary then shows as ended.
func (m *model) rotate(k *modelKey) {
	certain := k.certain
	k.certain = false
	r, err := m.RotateKey(ctxOf(m.t), ada, ks, k.id, 0)
	m.record("rotate %s: %v", k.id, err)
	if err != nil {
		return
	}
	ended := map[apikey.Digest]bool{}
	if err := m.primary.Store.View(ctxOf(m.t), func(tx management.Tx) error {
		list, err := tx.Secrets(ks, k.id)
		for _, s := range list {
			if !s.ExpiresAt.IsZero() {
				ended[apikey.Digest(s.Digest)] = true
			}
		}
		return err
	}); err != nil {
		m.t.Fatal(err)
	}
	for i, s := range k.secrets {
		k.secrets[i].ended = s.ended || ended[candidate(s.full).Digest]
	}
	k.secrets, k.certain = append(k.secrets, modelSecret{full: r.Key}), certain
}

// pass deletes the tenant "passing" with its keys, or creates the tenant if there is none.
func (m *model) pass() {
	if m.down.Load() {
		return
	}
	m.waitSynced()
	ctx := ctxOf(m.t)
	owned := map[string]bool{}
	if err := m.primary.Store.View(ctx, func(tx management.Tx) error {
		list, err := tx.Keys(management.KeyQuery{Keyspace: ks, Tenant: passing, Now: time.Now()})
		for _, k := range list {
			owned[k.ID] = true
		}
		return err
	}); err != nil {
		m.t.Fatal(err)
	}
	err := m.DeleteTenant(ctx, ada, ks, passing, true, nil)
	m.record("deleted %s: %v", passing, err)
	for _, k := range m.keys {
		if owned[k.id] {
			k.certain = false
			if err == nil {
				k.revoked, k.final = true, true
			}
		}
	}
	if err != nil {
		_, err := m.CreateTenant(ctx, ada, ks, passing, management.TenantFields{})
		m.record("made %s: %v", passing, err)
	}
}

// check fails the test if the node accepts a revoked key, an ended secret or a key of a suspended tenant.
func (m *model) check() {
	for _, k := range m.keys {
		for i, s := range k.secrets {
			got := m.reasonFor(s.full)
			if got == gateway.Allowed && (k.revoked || s.ended || m.suspend[k.tenant]) {
				m.t.Fatalf("%s is accepted with secret %d although it is revoked: %+v, tenant suspended: %v\n%v", k.id, i, *k, m.suspend[k.tenant], m.log)
			}
		}
	}
}

// TestRevocationsHold performs random sequences of everything that may happen to a node. After an
// acknowledged write has revoked a key, the node must never accept the key without a later write.
func TestRevocationsHold(t *testing.T) {
	for seed := range uint64(*modelRuns) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			n := newNode(t, filepath.Join(t.TempDir(), "primary.db"))
			m := &model{node: n, t: t, rng: rand.New(rand.NewPCG(seed, 1)), suspend: map[string]bool{}}
			for i := range 3 {
				n.tenant(fmt.Sprint("t", i))
			}
			// The copy must be complete before the test starts, because a node without a copy only knows the
			// primary's present state.
			m.waitSynced()
			m.backups = append(m.backups, m.backup())
			for range 60 {
				m.step()
				m.check()
			}
			m.down.Store(false)
			m.waitSynced()
			m.check()
			for _, k := range m.keys {
				if got := m.reasonFor(k.secrets[len(k.secrets)-1].full); got != gateway.Allowed && k.certain && !m.suspend[k.tenant] {
					t.Errorf("%s is rejected: %v\n%v", k.id, got, m.log)
				}
			}
			sameRows(t, n)
		})
	}
}

// sameRows fails the test if the rows of the replica differ from the rows of the primary.
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
				// A new time of last use makes no change in the change sequence, so the copy does not receive it.
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
	want := dump(n.primary.Store)
	n.down.Store(true)
	defer n.down.Store(false)
	if got := dump(n.r); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the replica holds\n%v\nthe primary\n%v", got, want)
	}
}
