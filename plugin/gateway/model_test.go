package gateway_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
)

// The states of a key or tenant in the model after its last finished change. The state is unsure
// during a change, and after a change that failed.
const (
	unsure int32 = iota
	good
	bad
)

// standing is the state of a key or tenant, with the number of the change that led to it. If the number is the same before
// and after a request, no change ran during the request.
type standing struct {
	change int64
	state  int32
}

type modelKey struct {
	id, full string
	tenant   *modelTenant
	mu       sync.Mutex // mu allows one change at a time.
	revoked  bool
	now      atomic.Pointer[standing]
}

type modelTenant struct {
	slug    string
	mu      sync.Mutex
	now     atomic.Pointer[standing]
	balance atomic.Int64 // balance is the expected balance after a clean stop.
	quota   atomic.Int64 // quota is the used part of the quota.
}

func change(p *atomic.Pointer[standing], f func() (int32, error)) {
	n := p.Load().change + 1
	p.Store(&standing{n, unsure})
	state, err := f()
	if err != nil {
		state = unsure
	}
	p.Store(&standing{n, state})
}

const modelQuota = 6000

// model is a gateway together with the states that its keys and tenants are expected to have.
type model struct {
	*fixture
	configs sync.Mutex
	config  atomic.Pointer[gateway.Request] // config holds the View and Keyspace that the checks of the model use now.
	tenants []*modelTenant
	keys    []*modelKey
}

func (m *model) reload() {
	m.configs.Lock()
	defer m.configs.Unlock()
	m.use(plan("a", "credits", fmt.Sprintf("rate %d/s", 1000+rand.IntN(1000)), "concurrency 100"),
		plan("b", "credits", "rate 5000/s per tenant", "rate 7000/m per address"),
		plan("q", fmt.Sprintf("quota %d/day", modelQuota), "rate 5000/s"))
	m.config.Store(&gateway.Request{View: m.view, Keyspace: m.ks})
}

func (m *model) ask(r *rand.Rand, k *modelKey) {
	req := *m.config.Load()
	req.Now, req.Credential, req.Cost, req.Addr = time.Now(), k.full, r.Int64N(4), gateway.Addr("192.0.2.1")
	key, ten := k.now.Load(), k.tenant.now.Load()
	var d gateway.Decision
	m.gw.Check(context.Background(), &req, &d)
	quiet := key == k.now.Load() && ten == k.tenant.now.Load()
	switch {
	case d.Reason == gateway.InvalidKey || d.Reason == gateway.TooManyFailures || d.Reason == gateway.PlanNotAllowed:
		m.t.Errorf("%s is %v", k.id, d.Reason)
	case quiet && d.Reason == gateway.Allowed && (key.state == bad || ten.state == bad):
		m.t.Errorf("%s passes after it was rejected", k.id)
	case quiet && key.state == good && (d.Reason == gateway.RevokedKey || d.Reason == gateway.DisabledKey):
		m.t.Errorf("%s is %v although it is good", k.id, d.Reason)
	case quiet && ten.state == good && d.Reason == gateway.TenantInactive:
		m.t.Errorf("%s is %v although its tenant is active", k.id, d.Reason)
	}
	if d.Reason == gateway.Allowed {
		if r.IntN(8) == 0 {
			d.Track(func(gateway.Reason) {})
		}
		took := req.Cost
		switch r.IntN(6) {
		case 0:
			d.Settle(0)
			took = 0
		case 1:
			if d.Plan.Name != "q" { // Settle may exceed a quota, which the model does not allow.
				took = r.Int64N(6)
				took -= d.Settle(took)
			}
		case 2:
			time.Sleep(time.Duration(r.IntN(3)) * time.Millisecond)
			d.Settle(0)
			took = 0
		}
		if d.Plan.Name == "q" {
			k.tenant.quota.Add(took)
		} else {
			k.tenant.balance.Add(-took)
		}
	}
	d.Done()
}

func (m *model) manage(r *rand.Rand) {
	k := m.keys[r.IntN(len(m.keys))]
	t := k.tenant
	ctx := context.Background()
	edit := func(f func(*gateway.Tenant)) error {
		return m.tryUpdate(func(tx management.Tx) []gateway.Change {
			row, err := tx.Tenant("default", t.slug)
			if err != nil {
				m.t.Error(err)
				return nil
			}
			copied := *row
			f(&copied)
			if err := tx.UpdateTenant(&copied); err != nil {
				m.t.Error(err)
			}
			return []gateway.Change{{Kind: gateway.ChangeTenant, Keyspace: "default", ID: t.slug}}
		})
	}
	switch n := r.IntN(20); {
	case n < 5:
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.revoked {
			return
		}
		what, state := enable, good
		switch {
		case n == 0 && r.IntN(16) == 0:
			what, state, k.revoked = revoke, bad, true
		case n < 2:
			what, state = disable, bad
		}
		change(&k.now, func() (int32, error) { return state, m.tryEditKey(k.id, what) })
	case n < 8:
		t.mu.Lock()
		defer t.mu.Unlock()
		active, state := n != 5, good
		if !active {
			state = bad
		}
		change(&t.now, func() (int32, error) {
			return state, edit(func(t *gateway.Tenant) { t.Active = active })
		})
	case n < 10 && t.slug[0] != 'q':
		t.mu.Lock()
		defer t.mu.Unlock()
		_ = edit(func(t *gateway.Tenant) { t.Plan = []string{"a", "b"}[n&1] })
	case n < 18:
		amount := r.Int64N(400) - 150
		_ = m.gw.WithCredits(ctx, "default", t.slug, func() error {
			var seq int64
			err := m.store.Update(ctx, func(tx management.Tx) error {
				err := tx.AddCredits(&management.LedgerEntry{Keyspace: "default", Tenant: t.slug, Kind: "add", Amount: amount, At: time.Now()})
				if err == nil {
					seq, err = tx.Change(gateway.ChangeTenant, "default", t.slug)
				}
				return err
			})
			if err == nil {
				t.balance.Add(amount)
				_ = m.gw.Apply(ctx, []gateway.Change{{Seq: seq, Kind: gateway.ChangeTenant, Keyspace: "default", ID: t.slug}})
			}
			return err
		})
	default:
		m.reload()
	}
}

// spendAll spends the balance of every tenant completely. That proves that no credits stay reserved.
func (m *model) spendAll() {
	for _, k := range m.keys {
		t := k.tenant
		left := t.balance.Load()
		if t.slug[0] == 'q' || left == 0 || k.now.Load().state != good || t.now.Load().state != good {
			continue
		}
		testkit.Eventually(m.t, fmt.Sprintf("%s can spend its %d credits", t.slug, left), func() bool {
			return m.check(k.full, cost(left)) == gateway.Allowed
		})
		t.balance.Store(0)
	}
}

// TestModel runs requests, management changes, reloads and an unreliable store concurrently, with a clean stop after each
// round. No rejected key may pass, no known key may be reported as unknown, and every credit and count must be accounted
// for.
func TestModel(t *testing.T) {
	m := &model{fixture: newFixture(t, plan("free"))}
	m.reload()
	for i := range 6 {
		on := []string{"a", "b", "q"}[i%3]
		mt := &modelTenant{slug: fmt.Sprintf("%s%d", on, i)}
		mt.now.Store(&standing{state: good})
		mt.balance.Store(200)
		m.tenant(mt.slug, on, 200)
		m.tenants = append(m.tenants, mt)
		for range 3 {
			k := &modelKey{tenant: mt}
			k.id, k.full = m.key(mt.slug)
			k.now.Store(&standing{state: good})
			m.keys = append(m.keys, k)
		}
	}
	for round := range uint64(4) {
		var wg sync.WaitGroup
		end := time.Now().Add(time.Second)
		worker := func(seed uint64, pause time.Duration, f func(*rand.Rand)) {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(seed, round))
				for time.Now().Before(end) && !t.Failed() {
					f(r)
					if pause > 0 {
						time.Sleep(pause)
					}
				}
			})
		}
		for i := range uint64(4) {
			worker(i, 0, func(r *rand.Rand) { m.ask(r, m.keys[r.IntN(len(m.keys))]) })
			worker(10+i, time.Millisecond, m.manage)
		}
		worker(20, 5*time.Millisecond, func(*rand.Rand) {
			req := *m.config.Load()
			req.Now, req.Addr, req.Cost = time.Now(), gateway.Addr("192.0.2.9"), 1
			req.Credential, _ = req.Keyspace.Grammar.Generate("live")
			var d gateway.Decision
			m.gw.Check(context.Background(), &req, &d)
			d.Done()
			if d.Reason != gateway.InvalidKey && d.Reason != gateway.TooManyFailures && d.Reason != gateway.Unavailable {
				t.Errorf("an unknown key is %v", d.Reason)
			}
		})
		worker(30, 50*time.Millisecond, func(r *rand.Rand) {
			m.store.flaky.Store(max(0, r.Int64N(40)-20))
			m.store.down.Store(r.IntN(8) == 0)
		})
		wg.Wait()
		m.store.flaky.Store(0)
		m.store.down.Store(false)
		m.spendAll()
		m.restart()
		for _, mt := range m.tenants {
			if got, want := m.balance(mt.slug), mt.balance.Load(); got != want {
				t.Errorf("round %d: %s has %d credits, want %d", round, mt.slug, got, want)
			}
			if n := mt.quota.Load(); n > modelQuota {
				t.Errorf("round %d: %s was allowed %d of a quota of %d", round, mt.slug, n, modelQuota)
			}
		}
		// A change that failed may be in the store nevertheless. After the restart, the model takes over the stored state.
		for _, k := range m.keys {
			row := m.readKey(k.id)
			state := good
			if row.Disabled || !row.RevokedAt.IsZero() {
				state = bad
			}
			k.now.Store(&standing{k.now.Load().change + 1, state})
		}
	}
	for _, mt := range m.tenants {
		if mt.slug[0] != 'q' {
			continue
		}
		// The store has every count. So exactly the unspent part of the quota can still be spent.
		var full string
		for _, k := range m.keys {
			if k.tenant == mt && !k.revoked {
				full = k.full
				m.editKey(k.id, enable)
			}
		}
		m.editTenant(mt.slug, func(t *gateway.Tenant) { t.Active = true })
		if left := modelQuota - mt.quota.Load(); full != "" && left > 0 {
			m.want(gateway.Allowed, full, cost(left))
			m.want(gateway.QuotaExceeded, full, cost(1))
		}
	}
}
