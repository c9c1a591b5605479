package webhook_test

import (
	"database/sql"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/management/idempotency"
)

// Rows are removed when their retention has ended, and no row before.
func TestPruneRemovesOldRows(t *testing.T) {
	const day = 24 * time.Hour
	w := newFixture(t)
	e := newEndpoint(t, nil)
	w.tenant("acme", "pro")
	w.hook(e.URL, "", "key.created", "key.expired")
	w.key("acme", expires(time.Hour))
	w.clock.Advance(2 * time.Hour)
	if _, _, err := idempotency.Begin(ctx, w.Manager, "ada", "k", []byte("request")); err != nil {
		t.Fatal(err)
	}
	w.start(often)
	testkit.Eventually(w.t, "both events", func() bool { return len(e.got()) == 2 })
	db := testkit.Must[*sql.DB](t)(sql.Open("sqlite", "file:"+w.path+"?_pragma=busy_timeout(20000)"))
	defer db.Close()
	want := func(after string, events, deliveries, marks, idempotent int) {
		t.Helper()
		got := func() bool {
			var e, d, m, o int
			if err := db.QueryRow(`SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM deliveries),
				(SELECT count(*) FROM event_marks), (SELECT count(*) FROM idempotency)`).Scan(&e, &d, &m, &o); err != nil {
				t.Fatal(err)
			}
			return e == events && d == deliveries && m == marks && o == idempotent
		}
		testkit.Eventually(w.t, "after "+after+" only the retained rows are left", got)
		w.scanned()
		if !got() {
			t.Errorf("after %s a retained row was removed", after)
		}
	}
	w.clock.Advance(23 * time.Hour)
	want("23 hours", 2, 2, 1, 1)
	w.clock.Advance(2 * time.Hour)
	want("a day", 2, 2, 1, 0)
	w.clock.Advance(30 * day)
	want("31 days", 0, 0, 1, 0)
	w.clock.Advance(370 * day)
	want("401 days", 0, 0, 0, 0)
	if n := len(e.got()); n != 2 {
		t.Errorf("%d events were published, want 2", n)
	}
	w.wantIntact()
}

// wantIntact checks that the audit chain is complete, as it is never pruned.
func (w *fixture) wantIntact() {
	w.t.Helper()
	if r, err := w.VerifyAudit(ctx); err != nil || !r.Intact || r.Events != 3 {
		w.t.Errorf("the audit chain: %+v, %v", r, err)
	}
}
