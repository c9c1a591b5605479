package storetest

import (
	"fmt"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
	"github.com/keygate-dev/keygate/plugin/store"
	"github.com/keygate-dev/keygate/plugin/usage"
)

// usageBatches tests that the rows of usage batches add up per node. A batch counts once even if it is
// written twice.
func usageBatches(t *testing.T, s Store) {
	hour := at.Truncate(time.Hour)
	counts := func(n int64) *usage.Counts {
		c := &usage.Counts{Requests: 3 * n, Allowed: n, UpstreamErrors: n, Credits: 2 * n, BytesIn: 5 * n, BytesOut: 7 * n}
		c.Rejected[gateway.RateLimited], c.Rejected[gateway.ExpiredKey] = n, n
		for range n {
			c.Latency.Add(time.Millisecond)
		}
		return c
	}
	row := func(tenant, key string, hour time.Time, n int64) usage.Row {
		return usage.Row{Keyspace: ks, Tenant: tenant, Key: key, Hour: hour, Counts: counts(n)}
	}
	write := func(writer, node string, seq int64, rows ...usage.Row) {
		t.Helper()
		if err := s.WriteUsage(ctxOf(t), &usage.Batch{Writer: writer, Node: node, Seq: seq, Until: at.Add(time.Duration(seq) * time.Second), Rows: rows}); err != nil {
			t.Fatal(err)
		}
	}
	read := func(name string, q usage.Query, want ...usage.Row) {
		t.Helper()
		q.Keyspace = ks
		if q.To.IsZero() {
			q.From, q.To = hour, hour.Add(24*time.Hour)
		}
		got, expected := map[string]usage.Counts{}, map[string]usage.Counts{}
		add := func(m map[string]usage.Counts, r *usage.Row) {
			id := fmt.Sprint(r.Tenant, r.Key, r.Hour.Unix())
			c := m[id]
			c.Merge(r.Counts)
			m[id] = c
		}
		var last time.Time
		if err := s.ReadUsage(ctxOf(t), q, func(r *usage.Row) error {
			if r.Hour.Before(last) {
				t.Errorf("%s: rows are not in order", name)
			}
			last = r.Hour
			add(got, r)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		for i := range want {
			add(expected, &want[i])
		}
		same(t, name, got, expected)
	}
	if until, err := s.UsageUntil(ctxOf(t)); err != nil || !until.IsZero() {
		t.Errorf("a new store has usage until %v, %v", until, err)
	}
	next := hour.Add(time.Hour)
	write("w1", "n1", 1, row("acme", "k1", hour, 1), row("acme", "k2", hour, 2), row("acme", "k1", hour, 4))
	write("w1", "n1", 1, row("acme", "k1", hour, 100)) // The batch numbered 1 of w1 was written before, so the second write has no effect.
	write("w1", "n1", 2, row("acme", "k1", hour, 8), row("acme", "k1", next, 16))
	write("w2", "n2", 1, row("acme", "k1", hour, 32), row("other", "k3", hour, 64))
	k1, k2, k3, later := row("acme", "k1", hour, 1+4+8+32), row("acme", "k2", hour, 2), row("other", "k3", hour, 64), row("acme", "k1", next, 16)
	read("all", usage.Query{}, k1, k2, k3, later)
	read("a key", usage.Query{Key: "k1"}, k1, later)
	read("a tenant", usage.Query{Tenant: "other"}, k3)
	read("an hour", usage.Query{From: next, To: next.Add(time.Hour)}, later)
	if until, err := s.UsageUntil(ctxOf(t)); err != nil || !until.Equal(at.Add(2*time.Second)) {
		t.Errorf("usage is complete until %v, %v", until, err)
	}
	if err := s.PruneUsage(ctxOf(t), at, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if until, err := s.UsageUntil(ctxOf(t)); err != nil || !until.Equal(at.Add(2*time.Second)) {
		t.Errorf("after pruning usage is complete until %v, %v", until, err)
	}
	read("all after pruning", usage.Query{}, k1, k2, k3, later)

	// The batch has more rows than one statement takes. The rows belong to two hours in alternation.
	day, many := hour.Add(48*time.Hour), []usage.Row(nil)
	for i := range 200 {
		many = append(many, row("many", fmt.Sprintf("m%d", i%150), day.Add(time.Duration(i/50%2)*time.Hour), int64(1+i%7)))
	}
	write("w1", "n1", 3, many...)
	write("w1", "n1", 4, many...)
	read("many", usage.Query{Tenant: "many", From: day, To: day.Add(24 * time.Hour)}, append(many, many...)...)
}

// usageDays tests that RollUsage adds up hours to days without losing any usage.
func usageDays(t *testing.T, s Store) {
	const day = 24 * time.Hour
	first := at.UTC().Truncate(day)
	seq := int64(0)
	row := func(keyspace, key string, hour time.Time, n int64) usage.Row {
		c := &usage.Counts{Requests: 2 * n, Allowed: n, Credits: n}
		c.Rejected[gateway.RateLimited] = n
		for range n {
			c.Latency.Add(time.Millisecond)
		}
		return usage.Row{Keyspace: keyspace, Tenant: "acme", Key: key, Hour: hour, Counts: c}
	}
	write := func(node string, rows ...usage.Row) {
		t.Helper()
		seq++
		if err := s.WriteUsage(ctxOf(t), &usage.Batch{Writer: "w", Node: node, Seq: seq, Rows: rows}); err != nil {
			t.Fatal(err)
		}
	}
	read := func(q usage.Query) (lines map[string]int64, whole, hours int) {
		t.Helper()
		lines = map[string]int64{}
		var last time.Time
		if err := s.ReadUsage(ctxOf(t), q, func(r *usage.Row) error {
			if r.Hour.Before(last) {
				t.Errorf("%v after %v", r.Hour, last)
			}
			last = r.Hour
			if hours++; r.Daily {
				hours, whole = hours-1, whole+1
			}
			lines[r.Hour.Truncate(day).Format(time.DateOnly)+" "+r.Key] += r.Requests
			if r.Requests != 2*r.Allowed || r.Credits != r.Allowed || r.Rejected[gateway.RateLimited] != r.Allowed || r.Tenant != "acme" {
				t.Errorf("row %+v", r)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return lines, whole, hours
	}
	// Three keys and two nodes give 900 rows of hours. One call of RollUsage adds up fewer rows.
	for _, node := range []string{"n1", "n2"} {
		var rows []usage.Row
		for h := range 150 {
			for _, key := range []string{"k1", "k2", "k3"} {
				rows = append(rows, row(ks, key, first.Add(time.Duration(h)*time.Hour), int64(h%7+1)))
			}
		}
		write(node, rows...)
	}
	write("n1", row("other", "k4", first, 5))
	q := usage.Query{Keyspace: ks, From: first, To: first.Add(10 * day)}
	before, whole, hours := read(q)
	if whole != 0 || hours != 900 {
		t.Fatalf("%d days, %d hours", whole, hours)
	}
	roll := func(times int, cut func(string) time.Time) {
		t.Helper()
		for n := 0; ; n++ {
			more, err := s.RollUsage(ctxOf(t), cut)
			if err != nil || n > 100 {
				t.Fatal(n, err)
			}
			if !more {
				if n < times {
					t.Errorf("RollUsage returned more %d times, want at least %d", n, times)
				}
				return
			}
		}
	}
	// Five whole days of one keyspace are added up. The beginning of the sixth day and the other keyspace
	// stay in hours.
	roll(2, func(keyspace string) time.Time {
		if keyspace == ks {
			return first.Add(5*day + 7*time.Hour)
		}
		return first.Add(-day)
	})
	after, whole, hours := read(q)
	same(t, "sums by day and key", after, before)
	if whole != 5*6 || hours != 900-5*24*6 {
		t.Errorf("%d days and %d hours are left", whole, hours)
	}
	if _, whole, hours := read(usage.Query{Keyspace: "other", From: first, To: first.Add(day)}); whole != 0 || hours != 1 {
		t.Errorf("the other keyspace has %d days, %d hours", whole, hours)
	}
	// A query of one hour returns the whole day, because the hours of that day no longer exist.
	if _, whole, hours := read(usage.Query{Keyspace: ks, Key: "k1", From: first.Add(day + 7*time.Hour), To: first.Add(day + 8*time.Hour)}); whole != 2 || hours != 0 {
		t.Errorf("a query of one hour returns %d days, %d hours", whole, hours)
	}
	// Usage that a node writes late is added to the day.
	write("n1", row(ks, "k1", first.Add(3*time.Hour), 9))
	before[first.Format(time.DateOnly)+" k1"] += 18
	for range 2 {
		if after, _, _ := read(q); asJSON(t, after) != asJSON(t, before) {
			t.Errorf("with late usage:\n%v\n%v", after, before)
		}
		roll(0, func(string) time.Time { return first.Add(5 * day) })
	}
	if _, whole, hours := read(q); whole != 5*6 || hours != 900-5*24*6 {
		t.Errorf("afterwards %d days and %d hours", whole, hours)
	}
	if _, whole, _ := read(usage.Query{Keyspace: ks, Tenant: "acme", From: first, To: first.Add(day)}); whole != 6 {
		t.Errorf("a tenant has %d days", whole)
	}
}

// quotaPruning tests that only counts of addresses are deleted by their age, since a clock may run ahead.
func quotaPruning(t *testing.T, s Store) {
	const day = 24 * time.Hour
	now := at
	count := func(subject string, c ratelimit.Calendar, start time.Time) gateway.Usage {
		return gateway.Usage{Subject: subject, Calendar: c, Start: start, Used: 1}
	}
	list := []gateway.Usage{
		count("a:p:default:free:1.2.3.4", ratelimit.Day, now.Add(-49*time.Hour)), count("a:p:default:free:2001:db8::/64", ratelimit.Month, now.Add(-63*day)),
		count("k:default:old", ratelimit.Month, now.Add(-63*day)), count("t:default:old", ratelimit.Day, now.Add(-900*day)), count("k:default:a", ratelimit.Day, now.Add(-49*time.Hour)), count("a:p:default:free:1.2.3.5", ratelimit.Day, now.Add(-47*time.Hour)), count("k:default:b", ratelimit.Total, time.Time{}), count("a:p:default:free:1.2.3.6", ratelimit.Day, now),
	}
	if err := s.WriteFlush(ctxOf(t), "n", &gateway.Flush{At: now, Usage: list}); err != nil {
		t.Fatal(err)
	}
	if err := s.PruneUsage(ctxOf(t), now, now.Add(-day)); err != nil {
		t.Fatal(err)
	}
	view(t, s, func(tx store.Tx) error {
		for i, u := range list {
			kept, err := tx.Usage(u.Subject)
			if err != nil || (len(kept) == 1) != (i >= 2) {
				t.Errorf("%s: %v, %v", u.Subject, kept, err)
			}
		}
		return nil
	})
}

// recentRequests tests that chunks of recent requests are kept up to a number of requests, and until
// they expire.
func recentRequests(t *testing.T, s Store) {
	seq := int64(0)
	write := func(key string, count, keep int) {
		t.Helper()
		seq++
		c := usage.Chunk{Keyspace: ks, Key: key, Newest: at, Expires: at.Add(time.Duration(seq) * time.Hour), Count: count,
			Entries: fmt.Appendf(nil, "[%d]", seq), Keep: keep}
		if err := s.WriteUsage(ctxOf(t), &usage.Batch{Writer: "w", Seq: seq, Chunks: []usage.Chunk{c}}); err != nil {
			t.Fatal(err)
		}
	}
	want := func(name, key string, entries ...string) {
		t.Helper()
		chunks, err := s.RecentRequests(ctxOf(t), ks, key)
		if err != nil {
			t.Fatal(err)
		}
		got := []string{}
		for _, c := range chunks {
			got = append(got, string(c.Entries))
		}
		same(t, name, got, append([]string{}, entries...))
	}
	write("k1", 5, 10)
	write("k1", 5, 0)
	write("k2", 1, 10)
	write("k1", 5, 0)
	want("kept without a bound", "k1", "[4]", "[2]", "[1]")
	write("k1", 3, 10)
	want("the chunks with the last ten requests", "k1", "[5]", "[4]", "[2]")
	want("of another key", "k2", "[3]")
	want("unknown", "k3")
	if err := s.PruneUsage(ctxOf(t), at.Add(2*time.Hour+time.Minute), at); err != nil {
		t.Fatal(err)
	}
	want("expired", "k1", "[5]", "[4]")
}
