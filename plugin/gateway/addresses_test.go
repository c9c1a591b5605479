package gateway_test

import (
	"database/sql"
	"fmt"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

// If an owner has the most addresses that the store keeps counts of, an address with a stored
// count keeps it over a restart. Further addresses are limited too, but begin at zero after a
// restart.
func TestQuotaOfManyAddresses(t *testing.T) {
	w := newFixture(t, plan("free", "quota 3/day per address"))
	w.tenant("acme", "free", 0)
	_, key := w.key("acme")
	now := time.Now()
	from := func(addr string) func(*gateway.Request) {
		return func(r *gateway.Request) { r.Addr, r.Now = gateway.Addr(addr), now }
	}
	for range 2 {
		w.want(gateway.Allowed, key, from("2001:db8:1::1"))
	}
	w.restart() // restart writes the count to the store.
	db, err := sql.Open("sqlite", w.path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	// The stored counter of rows leaves room for one more address. The test needs only the counter, not the rows.
	name := fmt.Sprintf("addresses/%d/%020d/p:default:free", ratelimit.Day, ratelimit.Day.Start(now).UnixMicro())
	if r, err := db.Exec(`UPDATE sequences SET value = 49999 WHERE name = $1 AND value = 1`, name); err != nil {
		t.Fatal(err)
	} else if n, _ := r.RowsAffected(); n != 1 {
		t.Fatal("the row of an address is not counted")
	}
	rows := func() (n int) {
		t.Helper()
		if err := db.QueryRow(`SELECT count(*) FROM quota_counts WHERE subject LIKE 'a:%'`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for i := range 20 {
		for range 3 {
			w.want(gateway.Allowed, key, from(fmt.Sprintf("2001:db8:2:%x::1", i)))
		}
	}
	testkit.Eventually(t, "the counts are flushed", func() bool { return rows() == 2 })
	for i := range 20 {
		w.want(gateway.QuotaExceeded, key, from(fmt.Sprintf("2001:db8:2:%x::1", i)))
	}
	w.want(gateway.Allowed, key, from("2001:db8:1::1"))
	w.restart()
	if n := rows(); n != 2 {
		t.Errorf("%d addresses have a row, want 2", n)
	}
	w.want(gateway.QuotaExceeded, key, from("2001:db8:1::1"))
	forgotten := 0
	for i := range 20 {
		if w.check(key, from(fmt.Sprintf("2001:db8:2:%x::1", i))) == gateway.Allowed {
			forgotten++
		}
	}
	if forgotten != 19 {
		t.Errorf("of 19 addresses without a row %d begin at zero", forgotten)
	}
}
