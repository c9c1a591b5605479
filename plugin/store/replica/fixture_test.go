package replica_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/cluster"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
	"github.com/keygate-dev/keygate/plugin/store/postgres"
	"github.com/keygate-dev/keygate/plugin/store/replica"
	"github.com/keygate-dev/keygate/plugin/store/replication"
	"github.com/keygate-dev/keygate/plugin/store/sqlite"
	"github.com/keygate-dev/keygate/plugin/store/sqlstore"
)

// cutPrimary is a real store that a test can make unreachable.
type cutPrimary struct {
	*sqlstore.Store
	replication.Source
	cluster.Registry
	// file is the primary store if the store is an SQLite file, otherwise nil.
	file *sqlite.Store
	down *atomic.Bool
	// held makes calls of Delta block until the channel is closed. If held is nil, no call blocks.
	held atomic.Pointer[chan struct{}]
}

func cutSQLite(s *sqlite.Store) *cutPrimary {
	return &cutPrimary{Store: s.Store, Source: s.Source, file: s}
}

func cutPostgres(s *postgres.Store) *cutPrimary {
	return &cutPrimary{Store: s.Store, Source: s.Source, Registry: s}
}

var errDown = fmt.Errorf("%w: the test made the primary unreachable", gateway.ErrStore)

func (c *cutPrimary) cut() error {
	if c.down.Load() {
		return errDown
	}
	return nil
}

func (c *cutPrimary) Delta(ctx context.Context, from replication.Position, limit int) (*replication.Delta, error) {
	if err := c.cut(); err != nil {
		return nil, err
	}
	if held := c.held.Load(); held != nil {
		select {
		case <-*held:
		case <-ctx.Done():
			return nil, errDown
		}
	}
	return c.Source.Delta(ctx, from, limit)
}

func (c *cutPrimary) Reread(ctx context.Context, from replication.Position, ch gateway.Change) (*replication.Delta, error) {
	if err := c.cut(); err != nil {
		return nil, err
	}
	return c.Source.Reread(ctx, from, ch)
}

func (c *cutPrimary) CopyOut(ctx context.Context, begin func(replication.Position) error, write func(string, []replication.Row) error) error {
	if err := c.cut(); err != nil {
		return err
	}
	return c.Source.CopyOut(ctx, begin, func(table string, rows []replication.Row) error {
		if err := c.cut(); err != nil {
			return err
		}
		return write(table, rows)
	})
}

func (c *cutPrimary) CompareRevocations(ctx context.Context, list []management.Revocation) ([]replication.RevocationState, error) {
	if err := c.cut(); err != nil {
		return nil, err
	}
	return c.Source.CompareRevocations(ctx, list)
}

func (c *cutPrimary) Update(ctx context.Context, f func(management.Tx) error) error {
	if err := c.cut(); err != nil {
		return err
	}
	return c.Store.Update(ctx, f)
}

func (c *cutPrimary) View(ctx context.Context, f func(management.Tx) error) error {
	if err := c.cut(); err != nil {
		return err
	}
	return c.Store.View(ctx, f)
}

func (c *cutPrimary) Lookup(ctx context.Context, keyspace string, d []apikey.Candidate) (*gateway.Record, error) {
	if err := c.cut(); err != nil {
		return nil, err
	}
	return c.Store.Lookup(ctx, keyspace, d)
}

func (c *cutPrimary) LookupSecret(ctx context.Context, keyspace, id string) (*gateway.Record, error) {
	if err := c.cut(); err != nil {
		return nil, err
	}
	return c.Store.LookupSecret(ctx, keyspace, id)
}

func (c *cutPrimary) LastSeq(ctx context.Context) (int64, error) {
	if err := c.cut(); err != nil {
		return 0, err
	}
	return c.Store.LastSeq(ctx)
}

func (c *cutPrimary) LoadUsage(ctx context.Context, subject string, now time.Time) ([]gateway.Usage, error) {
	if err := c.cut(); err != nil {
		return nil, err
	}
	return c.Store.LoadUsage(ctx, subject, now)
}

func (c *cutPrimary) WriteFlush(ctx context.Context, node string, f *gateway.Flush) error {
	if err := c.cut(); err != nil {
		return err
	}
	return c.Store.WriteFlush(ctx, node, f)
}

// node is a gateway with management that checks keys by a replica.
type node struct {
	*management.Manager
	t           testing.TB
	primary     *cutPrimary
	down        atomic.Bool
	path        string // path is the path of the primary, or "" if the primary is not a file.
	open        func() *cutPrimary
	file        string // file is the path of the replica.
	broadcaster replica.Broadcaster
	r           *replica.Replica
	gw          *cluster.Member
	view        *gateway.View
	stopped     bool
	// backAt is when the test last restored a backup of the primary.
	backAt time.Time
}

var ada = management.Actor{Name: "ada", IP: "192.0.2.1", Via: "api"}

// newNode starts a node whose primary is an SQLite file at path.
func newNode(t testing.TB, path string) *node {
	t.Helper()
	return newNodeOn(t, path, func() *cutPrimary { return cutSQLite(sqlitePrimary(t, path)) })
}

// newNodeWithKey starts a node whose copy holds a tenant "a" with one key.
func newNodeWithKey(t testing.TB) (n *node, id, full string) {
	t.Helper()
	n = newNode(t, filepath.Join(t.TempDir(), "primary.db"))
	n.tenant("a")
	id, full = n.key("a")
	n.waitSynced()
	return n, id, full
}

// newNodeOn starts a node on the primary that open returns.
func newNodeOn(t testing.TB, path string, open func() *cutPrimary) *node {
	t.Helper()
	n := &node{t: t, path: path, open: open, file: filepath.Join(t.TempDir(), "replica.db")}
	hasher, err := apikey.NewHasher()
	if err != nil {
		t.Fatal(err)
	}
	grammar, err := apikey.NewGrammar([]apikey.Prefix{{Value: "kg_live_", Environment: "live"}}, apikey.Format{Length: 32, Checksum: apikey.CRC32}, nil)
	if err != nil {
		t.Fatal(err)
	}
	places, err := apikey.NewPlaces()
	if err != nil {
		t.Fatal(err)
	}
	plan := &gateway.Plan{Name: "free", Cap: ^gateway.ScopeSet(0)}
	n.view = gateway.NewView(hasher, &gateway.Keyspace{Name: ks, Grammar: grammar, Places: places, DefaultPlan: "free",
		Plans: map[string]*gateway.Plan{"free": plan}, PlanOrder: []string{"free"}, Failures: &ratelimit.Policy{}})
	n.view.Keyspaces[ks].Failures = nil
	n.start()
	t.Cleanup(n.stop)
	return n
}

func (n *node) start() {
	n.t.Helper()
	ctx := context.Background()
	n.stopped = false
	n.primary = n.open()
	n.primary.down = &n.down
	var err error
	if n.r, err = replica.Open(ctx, replica.Options{File: n.file, Primary: n.primary, Logger: quiet, Broadcaster: n.broadcaster}); err != nil {
		n.t.Fatal(err)
	}
	if n.gw, err = cluster.New(cluster.Options{Options: gateway.Options{Store: n.r, Logger: quiet}}); err != nil {
		n.t.Fatal(err)
	}
	n.Manager = management.New(management.Config{Store: n.r, Engine: n.gw, View: func() *gateway.View { return n.view }, Logger: quiet})
	testkit.Eventually(n.t, "the gateway starts", func() bool {
		if n.gw.Start(ctx) == nil {
			return true
		}
		// A node without a copy can't start while the primary is unreachable.
		n.down.Store(false)
		return false
	})
}

func (n *node) stop() {
	if n.stopped {
		return
	}
	n.stopped = true
	_ = n.gw.Close(context.Background())
	_ = n.r.Close()
}

func (n *node) restart() {
	n.t.Helper()
	n.stop()
	n.start()
}

// reasonFor checks a full key on the node and returns the reason of the decision.
func (n *node) reasonFor(full string) gateway.Reason {
	r := gateway.Request{Now: time.Now(), View: n.view, Keyspace: n.view.Keyspaces[ks], Credential: full,
		Addr: netip.MustParseAddr("192.0.2.7"), Cost: 1, NoConcurrency: true}
	var d gateway.Decision
	ctx, cancel := context.WithTimeout(context.Background(), testkit.Patience)
	defer cancel()
	n.gw.Check(ctx, &r, &d)
	d.Done()
	return d.Reason
}

// waitSynced waits until look-ups use a copy that holds all changes of the primary.
func (n *node) waitSynced() {
	n.t.Helper()
	testkit.Eventually(n.t, "the replica holds all changes of the primary", func() bool {
		want, err := n.primary.Store.LastSeq(ctxOf(n.t))
		if err != nil {
			return false
		}
		got, err := n.r.LastSeq(ctxOf(n.t))
		s := n.r.Status()
		return err == nil && !s.PassThrough && s.LastSync.After(n.backAt) && got == want && s.Pending == 0 && s.Unreachable == nil && n.gw.Stats().Seq == want
	})
}

// key creates a key, and returns its id and the full key.
func (n *node) key(tenant string) (id, full string) {
	n.t.Helper()
	k, err := n.CreateKey(ctxOf(n.t), ada, ks, tenant, management.KeyFields{Name: management.Some("ci")})
	if err != nil {
		n.t.Fatal(err)
	}
	return k.ID, k.Key
}

func (n *node) tenant(slug string) {
	n.t.Helper()
	if _, err := n.CreateTenant(ctxOf(n.t), ada, ks, slug, management.TenantFields{}); err != nil {
		n.t.Fatal(err)
	}
}

// want fails the test if the node's decision about a key is another one.
func (n *node) want(full string, want gateway.Reason) {
	n.t.Helper()
	if got := n.reasonFor(full); got != want {
		n.t.Fatalf("the node decided %v, want %v", got, want)
	}
}

// backup writes a backup of the primary to a new file and returns its path.
func (n *node) backup() string {
	n.t.Helper()
	file := filepath.Join(n.t.TempDir(), "backup.db")
	if _, err := n.primary.file.Backup(ctxOf(n.t), file); err != nil {
		n.t.Fatal(err)
	}
	return file
}

// restore replaces the primary's file by a backup while the file is open. It waits until the store has
// opened the new file.
func (n *node) restore(backup string) {
	n.t.Helper()
	from, err := os.Open(backup)
	if err != nil {
		n.t.Fatal(err)
	}
	defer from.Close()
	to, err := os.OpenFile(n.path+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err == nil {
		_, err = io.Copy(to, from)
		err = errors.Join(err, to.Close(), os.Rename(n.path+".new", n.path))
	}
	if err != nil {
		n.t.Fatal(err)
	}
	testkit.Eventually(n.t, "the primary is opened again", func() bool { return n.primary.Store.Ping(ctxOf(n.t)) == nil })
	n.backAt = time.Now()
}

// acknowledged reports whether err means that a change was acknowledged. The change is then either
// written, or accepted for a later write.
func acknowledged(err error) bool {
	var accepted *management.Accepted
	return err == nil || errors.As(err, &accepted)
}
