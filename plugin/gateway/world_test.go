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

	"github.com/keygate-dev/keygate/internal/teststore"
	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/cluster"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
	"github.com/keygate-dev/keygate/plugin/store/sqlstore"
)

// faultyStore is the real store, with the delays and failures that a test sets.
type faultyStore struct {
	*sqlstore.Store
	down    atomic.Bool
	deaf    atomic.Bool // to changes alone
	lookups atomic.Int64
	changes atomic.Int64
	// flaky is how many of a hundred calls fail while the store is not down.
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

var errDown = fmt.Errorf("%w: taken away by the test", gateway.ErrStore)

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
		return errDown
	}
	return s.Store.WriteFlush(ctx, node, f)
}

func (s *faultyStore) Changes(ctx context.Context, after int64, limit int) ([]gateway.Change, error) {
	s.changes.Add(1)
	if s.deaf.Load() || s.fails() {
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

// world is a gateway on a real SQLite file, and what tests do to it.
type world struct {
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

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func newWorld(t testing.TB, plans ...*gateway.Plan) *world {
	t.Helper()
	w := &world{t: t, path: filepath.Join(t.TempDir(), "keygate.db")}
	w.hasher = must(apikey.NewHasher())(t)
	w.use(plans...)
	w.start()
	return w
}

// use makes a new configuration with these plans the current one.
func (w *world) use(plans ...*gateway.Plan) {
	w.t.Helper()
	if len(plans) == 0 {
		plans = []*gateway.Plan{plan("free")}
	}
	ks := &gateway.Keyspace{
		Name:     "default",
		Grammar:  must(apikey.NewGrammar([]apikey.Prefix{{Value: "kg_live_", Environment: "live"}}, apikey.Format{Length: 32, Checksum: apikey.CRC32}, nil))(w.t),
		Places:   must(apikey.NewPlaces())(w.t),
		Scopes:   gateway.Scopes{Names: []string{"admin", "deployment", "free"}, Cumulative: true},
		Plans:    map[string]*gateway.Plan{},
		Failures: must(ratelimit.ParseRate("5/m"))(w.t),
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

func (w *world) start() {
	w.t.Helper()
	ctx := context.Background()
	s := teststore.SQLite(w.t, w.path, slog.New(slog.DiscardHandler))
	w.store = &faultyStore{Store: s.Store, noDigests: w.noDigests}
	w.gw = must(cluster.New(cluster.Options{Options: gateway.Options{Store: w.store, Logger: slog.New(slog.DiscardHandler)}}))(w.t)
	if err := w.gw.Start(ctx); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(w.stop)
}

func (w *world) stop() {
	if w.gw == nil {
		return
	}
	if err := w.gw.Close(context.Background()); err != nil && !w.store.down.Load() {
		w.t.Error(err)
	}
	_ = w.store.Close()
	w.gw = nil
}

// restart stops everything cleanly and starts it on the same file.
func (w *world) restart() {
	w.stop()
	w.start()
}

// update writes rows and, as management does, applies the changes before it returns.
func (w *world) update(f func(tx management.Tx) []gateway.Change) {
	w.t.Helper()
	if err := w.tryUpdate(f); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) tryUpdate(f func(tx management.Tx) []gateway.Change) error {
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
func (w *world) tenant(slug, plan string, credits int64) {
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

// key creates a key of a tenant and returns its id and the full key.
func (w *world) key(tenant string, edit ...func(*gateway.Key)) (id, full string) {
	w.t.Helper()
	full = must(w.ks.Grammar.Generate("live"))(w.t)
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

func (w *world) insertSecret(tx management.Tx, keyID, full string) {
	w.t.Helper()
	d := w.hasher.Primary(full)
	s := gateway.Secret{ID: fmt.Sprintf("sec_%s_%d", keyID, w.n.Add(1)), KeyID: keyID, Keyspace: "default", Digest: d[:], Algorithm: w.hasher.PrimaryAlgorithm(), CreatedAt: time.Now()}
	s.Prefix, s.LastFour = w.ks.Grammar.Shown(full)
	if err := tx.InsertSecret(s); err != nil {
		w.t.Fatal(err)
	}
}

// editKey changes a key's record.
func (w *world) editKey(id string, edit func(*gateway.Key)) {
	w.t.Helper()
	if err := w.tryEditKey(id, edit); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) tryEditKey(id string, edit func(*gateway.Key)) error {
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

func (w *world) editTenant(slug string, edit func(*gateway.Tenant)) {
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
func (w *world) request(full string) *gateway.Request {
	return &gateway.Request{Now: time.Now(), View: w.view, Keyspace: w.ks, Credential: full, Cost: 1, Addr: netip.MustParseAddr("192.0.2.1")}
}

// check checks a request and ends it.
func (w *world) check(full string, edit ...func(*gateway.Request)) gateway.Reason {
	req := w.request(full)
	for _, e := range edit {
		e(req)
	}
	var d gateway.Decision
	w.gw.Check(context.Background(), req, &d)
	d.Done()
	return d.Reason
}

func (w *world) want(reason gateway.Reason, full string, edit ...func(*gateway.Request)) {
	w.t.Helper()
	if got := w.check(full, edit...); got != reason {
		w.t.Fatalf("got %v, want %v", got, reason)
	}
}

// eventually fails the test unless ok holds within a generous while.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatal("never happened: " + what)
}

func (w *world) readKey(id string) *gateway.Key {
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
