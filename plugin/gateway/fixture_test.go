package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/internal/teststore"
	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/cluster"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
	"github.com/keygate-dev/keygate/plugin/store/sqlstore"
)

// faultyStore is the real store, with delays and failures set by a test.
type faultyStore struct {
	*sqlstore.Store
	down        atomic.Bool
	failChanges atomic.Bool // failChanges makes the store's method Changes fail, while its other methods work.
	lookups     atomic.Int64
	// failedFlushes counts the flushes that failed.
	failedFlushes atomic.Int64
	changes       atomic.Int64
	// flaky is the percentage of store calls that fail although the store is not set to be down.
	flaky       atomic.Int64
	afterLookup atomic.Pointer[func()]
	noDigests   bool
}

func (s *faultyStore) fails() bool {
	return s.down.Load() || rand.Int64N(100) < s.flaky.Load()
}

func (s *faultyStore) LoadUsage(ctx context.Context, subject string, now time.Time) ([]gateway.Usage, error) {
	if s.fails() {
		return nil, errDown
	}
	return s.Store.LoadUsage(ctx, subject, now)
}

func (s *faultyStore) ReturnCredits(ctx context.Context, node, ks, tenant string) error {
	if s.fails() {
		return errDown
	}
	return s.Store.ReturnCredits(ctx, node, ks, tenant)
}

var errDown = fmt.Errorf("%w: failed by the test", gateway.ErrStore)

func (s *faultyStore) Lookup(ctx context.Context, ks string, c []apikey.Candidate) (*gateway.Record, error) {
	s.lookups.Add(1)
	if s.fails() {
		return nil, errDown
	}
	r, err := s.Store.Lookup(ctx, ks, c)
	if f := s.afterLookup.Load(); f != nil {
		(*f)()
	}
	return r, err
}

func (s *faultyStore) LookupSecret(ctx context.Context, ks, id string) (*gateway.Record, error) {
	if s.fails() {
		return nil, errDown
	}
	return s.Store.LookupSecret(ctx, ks, id)
}

func (s *faultyStore) Digests(ctx context.Context, yield func(string, []byte) bool) error {
	if s.noDigests {
		<-ctx.Done()
		return ctx.Err()
	}
	return s.Store.Digests(ctx, yield)
}

func (s *faultyStore) WriteFlush(ctx context.Context, node string, f *gateway.Flush) error {
	if s.fails() {
		s.failedFlushes.Add(1)
		return errDown
	}
	return s.Store.WriteFlush(ctx, node, f)
}

func (s *faultyStore) Changes(ctx context.Context, after int64, limit int) ([]gateway.Change, error) {
	s.changes.Add(1)
	if s.failChanges.Load() || s.fails() {
		return nil, errDown
	}
	return s.Store.Changes(ctx, after, limit)
}

func (s *faultyStore) SecretDigests(ctx context.Context, ks string, ids ...string) ([][]byte, error) {
	if s.fails() {
		return nil, errDown
	}
	return s.Store.SecretDigests(ctx, ks, ids...)
}

func (s *faultyStore) LeaseCredits(ctx context.Context, node, ks, tenant string, need int64) (int64, int64, error) {
	if s.fails() {
		return 0, 0, errDown
	}
	return s.Store.LeaseCredits(ctx, node, ks, tenant, need)
}

// fixture is a gateway on a real SQLite file, with helpers for tests.
type fixture struct {
	t      testing.TB
	path   string
	store  *faultyStore
	gw     *cluster.Member
	view   *gateway.View
	ks     *gateway.Keyspace
	n      atomic.Int64
	hasher *apikey.Hasher
	// noDigests keeps the filter of digests from being filled.
	noDigests bool
}

func newFixture(t testing.TB, plans ...*gateway.Plan) *fixture {
	t.Helper()
	w := &fixture{t: t, path: filepath.Join(t.TempDir(), "keygate.db")}
	w.hasher = testkit.Must[*apikey.Hasher](t)(apikey.NewHasher())
	w.use(plans...)
	w.start()
	return w
}

// use makes a new configuration with these plans the current one.
func (w *fixture) use(plans ...*gateway.Plan) {
	w.t.Helper()
	if len(plans) == 0 {
		plans = []*gateway.Plan{plan("free")}
	}
	ks := &gateway.Keyspace{
		Name:     "default",
		Grammar:  testkit.Must[*apikey.Grammar](w.t)(apikey.NewGrammar([]apikey.Prefix{{Value: "kg_live_", Environment: "live"}}, apikey.Format{Length: 32, Checksum: apikey.CRC32}, nil)),
		Places:   testkit.Must[*apikey.Places](w.t)(apikey.NewPlaces()),
		Scopes:   gateway.Scopes{Names: []string{"admin", "deployment", "free"}, Cumulative: true},
		Plans:    map[string]*gateway.Plan{},
		Failures: testkit.Must[*ratelimit.Policy](w.t)(ratelimit.ParseRate("5/m")),
	}
	for _, p := range plans {
		ks.Plans[p.Name] = p
		ks.PlanOrder = append(ks.PlanOrder, p.Name)
	}
	w.ks, w.view = ks, gateway.NewView(w.hasher, ks)
}

// plan returns a plan with limits as a Caddyfile states them.
func plan(name string, limits ...string) *gateway.Plan {
	p := &gateway.Plan{Name: name, Cap: ^gateway.ScopeSet(0)}
	for _, l := range limits {
		p.Limits = append(p.Limits, limit(l))
	}
	return p
}

func limit(text string) *ratelimit.Policy {
	kind, rest := text, ""
	for i := range text {
		if text[i] == ' ' {
			kind, rest = text[:i], text[i+1:]
			break
		}
	}
	var p *ratelimit.Policy
	var err error
	switch kind {
	case "rate":
		p, err = ratelimit.ParseRate(rest)
	case "quota":
		p, err = ratelimit.ParseQuota(rest)
	case "concurrency":
		p, err = ratelimit.ParseConcurrency(rest)
	case "credits":
		p = ratelimit.NewCredits()
	default:
		err = errors.New("no such limit: " + text)
	}
	if err != nil {
		panic(err)
	}
	return p
}

func (w *fixture) start() {
	w.t.Helper()
	ctx := context.Background()
	s := teststore.SQLite(w.t, w.path, slog.New(slog.DiscardHandler))
	w.store = &faultyStore{Store: s.Store, noDigests: w.noDigests}
	w.gw = testkit.Must[*cluster.Member](w.t)(cluster.New(cluster.Options{Options: gateway.Options{Store: w.store, Logger: slog.New(slog.DiscardHandler)}}))
	if err := w.gw.Start(ctx); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(w.stop)
}

func (w *fixture) stop() {
	if w.gw == nil {
		return
	}
	if err := w.gw.Close(context.Background()); err != nil && !w.store.down.Load() {
		w.t.Error(err)
	}
	_ = w.store.Close()
	w.gw = nil
}

// restart stops the gateway cleanly, and starts another one on the same file.
func (w *fixture) restart() {
	w.stop()
	w.start()
}

// update writes rows and then applies their changes, as management does.
func (w *fixture) update(f func(tx management.Tx) []gateway.Change) {
	w.t.Helper()
	if err := w.tryUpdate(f); err != nil {
		w.t.Fatal(err)
	}
}

func (w *fixture) tryUpdate(f func(tx management.Tx) []gateway.Change) error {
	var changes []gateway.Change
	err := w.store.Update(context.Background(), func(tx management.Tx) error {
		changes = f(tx)
		for i, c := range changes {
			seq, err := tx.Change(c.Kind, c.Keyspace, c.ID)
			if err != nil {
				return err
			}
			changes[i].Seq = seq
		}
		return nil
	})
	if err != nil {
		return err
	}
	return w.gw.Apply(context.Background(), changes)
}

// tenant creates a tenant.
func (w *fixture) tenant(slug, plan string, credits int64) {
	w.t.Helper()
	w.update(func(tx management.Tx) []gateway.Change {
		now := time.Now()
		if err := tx.InsertTenant(&gateway.Tenant{Keyspace: "default", Slug: slug, Name: slug, Plan: plan, Active: true, CreatedAt: now, UpdatedAt: now}); err != nil {
			w.t.Fatal(err)
		}
		if credits > 0 {
			if err := tx.AddCredits(&management.LedgerEntry{Keyspace: "default", Tenant: slug, Kind: "add", Amount: credits, At: now}); err != nil {
				w.t.Fatal(err)
			}
		}
		return []gateway.Change{{Kind: gateway.ChangeTenant, Keyspace: "default", ID: slug}}
	})
}

// generate returns a new key that the store does not have.
func (w *fixture) generate() string {
	w.t.Helper()
	return testkit.Must[string](w.t)(w.ks.Grammar.Generate("live"))
}

// key creates a key of a tenant and returns its id and the full key.
func (w *fixture) key(tenant string, edit ...func(*gateway.Key)) (id, full string) {
	w.t.Helper()
	full = w.generate()
	id = fmt.Sprintf("key_%06d", w.n.Add(1))
	w.update(func(tx management.Tx) []gateway.Change {
		now := time.Now()
		k := &gateway.Key{ID: id, Keyspace: "default", Tenant: tenant, Name: id, Environment: "live", CreatedAt: now, UpdatedAt: now}
		k.Prefix, k.LastFour = w.ks.Grammar.Shown(full)
		for _, e := range edit {
			e(k)
		}
		if err := tx.InsertKey(k); err != nil {
			w.t.Fatal(err)
		}
		w.insertSecret(tx, id, full)
		return []gateway.Change{{Kind: gateway.ChangeKey, Keyspace: "default", ID: id}}
	})
	return id, full
}

func (w *fixture) insertSecret(tx management.Tx, keyID, full string) {
	w.t.Helper()
	d := w.hasher.Primary(full)
	s := gateway.Secret{ID: fmt.Sprintf("sec_%s_%d", keyID, w.n.Add(1)), KeyID: keyID, Keyspace: "default", Digest: d[:], Algorithm: w.hasher.PrimaryAlgorithm(), CreatedAt: time.Now()}
	s.Prefix, s.LastFour = w.ks.Grammar.Shown(full)
	if err := tx.InsertSecret(s); err != nil {
		w.t.Fatal(err)
	}
}

// editKey changes a key's record.
func (w *fixture) editKey(id string, edit func(*gateway.Key)) {
	w.t.Helper()
	if err := w.tryEditKey(id, edit); err != nil {
		w.t.Fatal(err)
	}
}

func (w *fixture) tryEditKey(id string, edit func(*gateway.Key)) error {
	return w.tryUpdate(func(tx management.Tx) []gateway.Change {
		k, err := tx.Key("default", id)
		if err != nil {
			w.t.Error(err)
			return nil
		}
		changed := *k
		edit(&changed)
		if err := tx.UpdateKey(&changed); err != nil {
			w.t.Error(err)
		}
		return []gateway.Change{{Kind: gateway.ChangeKey, Keyspace: "default", ID: id}}
	})
}

func (w *fixture) editTenant(slug string, edit func(*gateway.Tenant)) {
	w.t.Helper()
	w.update(func(tx management.Tx) []gateway.Change {
		t, err := tx.Tenant("default", slug)
		if err != nil {
			w.t.Fatal(err)
		}
		changed := *t
		edit(&changed)
		if err := tx.UpdateTenant(&changed); err != nil {
			w.t.Fatal(err)
		}
		return []gateway.Change{{Kind: gateway.ChangeTenant, Keyspace: "default", ID: slug}}
	})
}

func revoke(k *gateway.Key)  { k.RevokedAt = time.Now() }
func disable(k *gateway.Key) { k.Disabled = true }
func enable(k *gateway.Key)  { k.Disabled = false }

// request returns a request with a key.
func (w *fixture) request(full string) *gateway.Request {
	return &gateway.Request{Now: time.Now(), View: w.view, Keyspace: w.ks, Credential: full, Cost: 1, Addr: netip.MustParseAddr("192.0.2.1")}
}

// check lets the gateway check one request with the key, ends the request, and returns the reason of the decision.
func (w *fixture) check(full string, edit ...func(*gateway.Request)) gateway.Reason {
	req := w.request(full)
	for _, e := range edit {
		e(req)
	}
	var d gateway.Decision
	w.gw.Check(context.Background(), req, &d)
	d.Done()
	return d.Reason
}

func (w *fixture) want(reason gateway.Reason, full string, edit ...func(*gateway.Request)) {
	w.t.Helper()
	if got := w.check(full, edit...); got != reason {
		w.t.Fatalf("got %v, want %v", got, reason)
	}
}

func (w *fixture) readKey(id string) *gateway.Key {
	w.t.Helper()
	var k *gateway.Key
	if err := w.store.View(context.Background(), func(tx management.Tx) (err error) {
		k, err = tx.Key("default", id)
		return err
	}); err != nil {
		w.t.Fatal(err)
	}
	return k
}
