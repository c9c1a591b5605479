package sqlite

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
	"github.com/keygate-dev/keygate/plugin/store/sqlstore"
)

// addressCounts returns daily counts of n client addresses, numbered from first, for an owner of quotas.
func addressCounts(owner string, first, n int, start time.Time) (list []gateway.Usage) {
	for i := range n {
		list = append(list, gateway.Usage{Subject: fmt.Sprintf("a:%s:2001:db8:%x::/64", owner, first+i), Calendar: ratelimit.Day, Start: start, Used: 3})
	}
	return list
}

// flushCounts writes usage counts and returns how many of them got no row.
func flushCounts(t *testing.T, s *sqlstore.Store, list []gateway.Usage) (unstored int) {
	t.Helper()
	if err := s.WriteFlush(t.Context(), "n", &gateway.Flush{At: time.Now(), Usage: list}); err != nil {
		t.Fatal(err)
	}
	for i := range list {
		if list[i].Unstored {
			unstored++
		}
	}
	return unstored
}

// TestAddressRows checks that the number of rows per owner and period is limited, however many client
// addresses use a quota.
func TestAddressRows(t *testing.T) {
	for name, open := range map[string]func() *sqlstore.Store{
		"SQLite":     func() *sqlstore.Store { return openTest(t, filepath.Join(t.TempDir(), "keygate.db")).Store },
		"PostgreSQL": func() *sqlstore.Store { return openPostgres(t).Store },
	} {
		s := open()
		s.AddressRows = 100
		today := ratelimit.Day.Start(time.Now())
		wantUnstored := func(counts string, list []gateway.Usage, n int) {
			t.Helper()
			if got := flushCounts(t, s, list); got != n {
				t.Errorf("%s, %s: %d got no row, want %d", name, counts, got, n)
			}
		}
		wantUnstored("the first addresses", addressCounts("p:default:free", 0, 60, today), 0)
		wantUnstored("the first addresses again", addressCounts("p:default:free", 0, 60, today), 0)
		wantUnstored("more addresses than the limit", addressCounts("p:default:free", 60, 60, today), 20)
		wantUnstored("many more addresses", addressCounts("p:default:free", 1000, 500, today), 500)
		wantUnstored("the first addresses once more", addressCounts("p:default:free", 0, 60, today), 0)
		wantUnstored("addresses of another plan", addressCounts("p:default:pro", 0, 60, today), 0)
		wantUnstored("addresses of a tenant's own limits", addressCounts("t:default:acme", 0, 101, today), 1)
		wantUnstored("addresses of the next day", addressCounts("p:default:free", 1000, 101, today.AddDate(0, 0, 1)), 1)
		rows, err := s.LoadUsage(t.Context(), "a:p:default:free:2001:db8:7::/64", today)
		if err != nil || len(rows) != 1 || rows[0].Used != 3 {
			t.Errorf("%s: the count of one of the first addresses is %v, %v", name, rows, err)
		}
		count := func(query string) (n int) {
			t.Helper()
			if err := s.Query(t.Context(), "counting", func(f *sqlstore.Conns) error { return f.Read.QueryRowContext(t.Context(), query).Scan(&n) }); err != nil {
				t.Fatal(err)
			}
			return n
		}
		if n := count(`SELECT count(*) FROM quota_counts LIMIT 1`); n != 100+60+100+100 {
			t.Errorf("%s: %d rows", name, n)
		}
		if err := s.PruneUsage(t.Context(), today.AddDate(0, 0, 2).Add(time.Hour), today); err != nil {
			t.Fatal(err)
		}
		if n, m := count(`SELECT count(*) FROM quota_counts LIMIT 1`), count(`SELECT count(*) FROM sequences WHERE name LIKE 'addresses%' LIMIT 1`); n != 100 || m != 1 {
			t.Errorf("%s: after two days %d rows and %d sequences", name, n, m)
		}
	}
}
