package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/internal/testserver"
	"github.com/keygate-dev/keygate/plugin/cluster"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
)

func timeoutCtx(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
	t.Cleanup(cancel)
	return ctx
}

// touch appends a change of the key id to the change sequence, and returns the number of the change.
func touch(ctx context.Context, s *Store, id string) (seq int64, err error) {
	err = s.Update(ctx, func(tx management.Tx) error {
		seq, err = tx.Change(gateway.ChangeKey, ks, id)
		return err
	})
	return seq, err
}

func TestOpenTogether(t *testing.T) {
	url := testserver.PostgresURL(t)
	var all sync.WaitGroup
	for range 10 {
		s := openPostgres(t, url)
		all.Go(func() {
			if err := s.Ping(timeoutCtx(t)); err != nil {
				t.Error(err)
			}
			if _, err := touch(timeoutCtx(t), s, "k"); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if seq, err := openPostgres(t, url).LastSeq(timeoutCtx(t)); err != nil || seq != 10 {
		t.Errorf("after ten changes the newest is %d, %v", seq, err)
	}
}

// expectNotified makes a change in the store other, and waits until s finds that change.
func expectNotified(t *testing.T, s, other *Store) {
	t.Helper()
	ctx := timeoutCtx(t)
	seq, err := touch(ctx, other, "k")
	if err != nil {
		t.Fatal(err)
	}
	for {
		if err := s.Wait(ctx); err != nil {
			t.Fatal(err)
		}
		list, err := s.Changes(ctx, seq-1, 10)
		if err == nil && len(list) > 0 && list[0].Seq == seq {
			return
		}
	}
}

func TestNotifications(t *testing.T) {
	url := testserver.PostgresURL(t)
	server, at := testserver.PostgresAt(t, url)
	proxy := testserver.NewProxy(t, server)
	other := openPostgres(t, url)
	if err := other.Ping(timeoutCtx(t)); err != nil {
		t.Fatal(err)
	}
	s := openPostgres(t, at(proxy.Addr()))
	p := s.db
	testkit.Eventually(t, "notifications arrive", p.notified.Load)
	expectNotified(t, s, other)
	for range 3 {
		proxy.Cut()
		expectNotified(t, s, other)
	}
	proxy.Refuse()
	testkit.Eventually(t, "the lost connection is noticed", func() bool { return !p.notified.Load() })
	if _, err := touch(timeoutCtx(t), other, "k"); err != nil {
		t.Fatal(err)
	}
	proxy.Restore()
	expectNotified(t, s, other)
	testkit.Eventually(t, "notifications arrive again", p.notified.Load)
}

// TestPollsThroughPooler checks that a store behind a pooler finds changes by polling, because a pooler
// does not forward notifications.
func TestPollsThroughPooler(t *testing.T) {
	url := testserver.PostgresURL(t)
	pooler := testserver.NewPgBouncer(t, url)
	other, s := openPostgres(t, url), openPostgres(t, pooler.Through(url))
	for range 3 {
		expectNotified(t, s, other)
	}
}

func TestUnreachable(t *testing.T) {
	pg := testserver.NewPostgres(t)
	address := strings.Replace(pg.URL(), "keygate@", "keygate:the-password@", 1)
	s := openPostgres(t, address)
	if _, err := touch(timeoutCtx(t), s, "before"); err != nil {
		t.Fatal(err)
	}
	pg.Kill()
	for call, err := range map[string]error{
		"Ping":   s.Ping(timeoutCtx(t)),
		"Update": s.Update(timeoutCtx(t), func(management.Tx) error { return nil }),
		"View":   s.View(timeoutCtx(t), func(management.Tx) error { return nil }),
	} {
		if !errors.Is(err, gateway.ErrStore) || !strings.Contains(fmt.Sprint(err), pg.Addr()) || strings.Contains(fmt.Sprint(err), "the-password") {
			t.Errorf("%s: %v", call, err)
		}
	}
	late := openPostgres(t, address) // The store late has not reached the server yet.
	if err := late.Ping(timeoutCtx(t)); !errors.Is(err, gateway.ErrStore) {
		t.Errorf("a store whose server was never reachable: %v", err)
	}
	pg.Start()
	for _, s := range []*Store{s, late} {
		testkit.Eventually(t, "the server answers again", func() bool { return s.Ping(timeoutCtx(t)) == nil })
		if _, err := touch(timeoutCtx(t), s, "after"); err != nil {
			t.Error(err)
		}
	}
	if list, err := s.Changes(timeoutCtx(t), 0, 10); err != nil || len(list) != 3 {
		t.Errorf("%d changes, %v", len(list), err)
	}
}

// TestCommitConnectionBreaks cuts connections during commits. Update must return nil if the commit
// happened, and an error if the commit did not happen.
func TestCommitConnectionBreaks(t *testing.T) {
	url := testserver.PostgresURL(t)
	server, at := testserver.PostgresAt(t, url)
	proxy := testserver.NewProxy(t, server)
	s := openPostgres(t, at(proxy.Addr()))
	happened := 0
	// The test cuts the connection after a random time. The range of that time follows the machine's speed,
	// so that some commits succeed and some fail.
	longest := 2 * time.Millisecond
	for i := range 30 {
		slug := fmt.Sprint("t", i)
		cutAfter := rand.N(longest)
		err := s.Update(timeoutCtx(t), func(tx management.Tx) error {
			go func() {
				time.Sleep(cutAfter)
				proxy.Cut()
			}()
			return tx.InsertTenant(&gateway.Tenant{Keyspace: ks, Slug: slug})
		})
		found := false
		testkit.Eventually(t, "the store answers", func() bool {
			return s.View(timeoutCtx(t), func(tx management.Tx) error {
				_, err := tx.Tenant(ks, slug)
				found = err == nil
				if errors.Is(err, gateway.ErrNotFound) {
					err = nil
				}
				return err
			}) == nil
		})
		// Update may try again. If the first commit happened, the second attempt would find the
		// slug taken and return an error.
		if (err == nil) != found {
			t.Errorf("attempt %d: the error is %v, but whether the row is there: %v", i, err, found)
		}
		if found {
			happened++
			longest = longest * 9 / 10
		} else {
			longest = longest * 11 / 10
		}
	}
	if happened == 0 || happened == 30 {
		t.Errorf("%d of 30 commits happened, want both outcomes", happened)
	}
}

func TestNodes(t *testing.T) {
	staleness := cluster.Staleness{Default: time.Minute, Keyspaces: map[string]time.Duration{"bulk": time.Hour, "payments": time.Second}}
	s := openPostgres(t, testserver.PostgresURL(t))
	for range 3 {
		if _, err := touch(timeoutCtx(t), s, "k"); err != nil {
			t.Fatal(err)
		}
	}
	report := func(name, instance string, seq int64) error {
		return s.ReportNode(timeoutCtx(t), &cluster.Node{Name: name, Instance: instance, Version: "v1", ConfigHash: "c", Seq: seq, Ready: true}, staleness)
	}
	for _, err := range []error{report("b", "1", 1), report("a", "2", 2), report("a", "2", 3)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := report("a", "3", 9); !errors.Is(err, cluster.ErrNameTaken) {
		t.Errorf("a second gateway of one name: %v", err)
	}
	nodes, now, err := s.Nodes(timeoutCtx(t))
	if err != nil || len(nodes) != 2 || nodes[0].Name != "a" || nodes[0].Seq != 3 || nodes[0].Instance != "2" || !nodes[0].Ready {
		t.Fatalf("%+v, %v", nodes, err)
	}
	contact := nodes[0].ContactAt
	if d := nodes[0].Deadline.Sub(contact); d < time.Hour || d > time.Hour+time.Minute || now.Before(contact) {
		t.Errorf("its deadline is %v after its last contact, at %v", d, now)
	}
	for name, want := range map[string]time.Duration{"": time.Hour, "bulk": time.Hour, "payments": time.Second, "any other": time.Minute} {
		if d := nodes[0].DeadlineFor(name).Sub(contact); d < want || d > want+10*time.Second {
			t.Errorf("its deadline for keyspace %q is %v after its last contact", name, d)
		}
	}
	// An older version of Keygate leaves the stored deadlines of keyspaces unchanged, and reports as another
	// instance.
	if _, err := s.db.write.ExecContext(timeoutCtx(t), `UPDATE nodes SET instance = '1' WHERE name = 'a'`); err != nil {
		t.Fatal(err)
	}
	if nodes, _, err := s.Nodes(timeoutCtx(t)); err != nil || nodes[0].DeadlineFor("payments") != nodes[0].Deadline {
		t.Errorf("of an older process of that name: %+v, %v", nodes[0], err)
	}
	if _, err := s.db.write.ExecContext(timeoutCtx(t), `UPDATE nodes SET instance = '2' WHERE name = 'a'`); err != nil {
		t.Fatal(err)
	}
	// A former instance of the same name does not remove the node when that instance ends.
	if err := s.RemoveNode(timeoutCtx(t), "a", "another"); err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveNode(timeoutCtx(t), "b", "1"); err != nil {
		t.Fatal(err)
	}
	if nodes, _, err := s.Nodes(timeoutCtx(t)); err != nil || len(nodes) != 1 || nodes[0].Name != "a" {
		t.Errorf("%+v, %v", nodes, err)
	}
}

func TestPruneChanges(t *testing.T) {
	s := openPostgres(t, testserver.PostgresURL(t))
	for range 3 {
		if _, err := touch(timeoutCtx(t), s, "k"); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.db.pruneChanges(timeoutCtx(t), time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	if list, err := s.Changes(timeoutCtx(t), 0, 10); err != nil || len(list) != 3 {
		t.Errorf("after dropping those older than an hour: %d, %v", len(list), err)
	}
	if err := s.db.pruneChanges(timeoutCtx(t), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if list, err := s.Changes(timeoutCtx(t), 0, 10); err != nil || len(list) != 1 || list[0].Seq != 3 {
		t.Errorf("after dropping all but the newest: %+v, %v", list, err)
	}
}
