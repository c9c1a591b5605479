package webhook_test

import (
	"database/sql"
	"testing"
	"time"
)

// rows counts the rows of a table, in the file itself.
func (w *world) rows(table string) (n int) {
	w.t.Helper()
	db := must[*sql.DB](w.t)(sql.Open("sqlite", w.path))
	defer db.Close()
	if err := db.QueryRow("SELECT count(*) FROM " + table).Scan(&n); err != nil {
		w.t.Fatal(err)
	}
	return n
}

// What nobody asks for any more is removed in time, and nothing before its time.
func TestPruned(t *testing.T) {
	const day = 24 * time.Hour
	w := newWorld(t)
	e := newEndpoint(t, nil)
	w.tenant("acme", "pro")
	w.hook(e.URL, "", "key.created", "key.expired")
	w.key("acme", expires(time.Hour))
	w.pass(2 * time.Hour)
	if _, _, err := w.Begin(ctx, "ada", "k", []byte("request")); err != nil {
		t.Fatal(err)
	}
	w.start(often)
	w.eventually("both events", func() bool { return len(e.got()) == 2 })
	tables := []string{"events", "deliveries", "event_marks", "idempotency"}
	want := func(after string, counts ...int) {
		t.Helper()
		got := func() bool {
			for i, table := range tables {
				if w.rows(table) != counts[i] {
					return false
				}
			}
			return true
		}
		w.eventually("after "+after+" what is to be left", got)
		time.Sleep(50 * time.Millisecond) // some looks more
		if !got() {
			t.Errorf("after %s more was removed than is to be", after)
		}
	}
	want("an hour", 2, 2, 1, 1)
	w.pass(23 * time.Hour)
	want("23 hours", 2, 2, 1, 1)
	w.pass(2 * time.Hour)
	want("a day", 2, 2, 1, 0)
	w.pass(28 * day)
	want("29 days", 2, 2, 1, 0)
	w.pass(2 * day)
	want("31 days", 0, 0, 1, 0)
	w.pass(368 * day)
	want("399 days", 0, 0, 1, 0)
	w.pass(2 * day)
	want("401 days", 0, 0, 0, 0)
	if n := len(e.got()); n != 2 {
		t.Errorf("%d events were told, of 2", n)
	}
	w.wantIntact()
}

// wantIntact checks that the audit, which is never pruned, is whole.
func (w *world) wantIntact() {
	w.t.Helper()
	if r, err := w.VerifyAudit(ctx); err != nil || !r.Intact || r.Events != 3 {
		w.t.Errorf("the audit chain: %+v, %v", r, err)
	}
}
