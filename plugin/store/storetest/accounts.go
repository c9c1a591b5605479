package storetest

import (
	"fmt"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	used "github.com/keygate-dev/keygate/plugin/usage"
)

// accounts tests what keys used: batches add up, each once, by node.
func accounts(t *testing.T, s Store) {
	hour := at.Truncate(time.Hour)
	counts := func(n int64) *used.Counts {
		c := &used.Counts{Requests: 3 * n, Allowed: n, UpstreamErrors: n, Credits: 2 * n, BytesIn: 5 * n, BytesOut: 7 * n}
		c.Refused[gateway.RateLimited], c.Refused[gateway.ExpiredKey] = n, n
		for range n {
			c.Latency.Add(time.Millisecond)
		}
		return c
	}
	row := func(tenant, key string, hour time.Time, n int64) used.Row {
		return used.Row{Keyspace: ks, Tenant: tenant, Key: key, Hour: hour, Counts: counts(n)}
	}
	write := func(writer, node string, seq int64, rows ...used.Row) {
		t.Helper()
		if err := s.WriteUsage(ctxOf(t), &used.Batch{Writer: writer, Node: node, Seq: seq, Until: at.Add(time.Duration(seq) * time.Second), Rows: rows}); err != nil {
			t.Fatal(err)
		}
	}
	read := func(what string, q used.Query, want ...used.Row) {
		t.Helper()
		q.Keyspace = ks
		if q.To.IsZero() {
			q.From, q.To = hour, hour.Add(24*time.Hour)
		}
		got, expected := map[string]used.Counts{}, map[string]used.Counts{}
		add := func(m map[string]used.Counts, r *used.Row) {
			id := fmt.Sprint(r.Tenant, r.Key, r.Hour.Unix())
			c := m[id]
			c.Merge(r.Counts)
			m[id] = c
		}
		var last time.Time
		if err := s.ReadUsage(ctxOf(t), q, func(r *used.Row) error {
			if r.Hour.Before(last) {
				t.Errorf("%s: rows are not in order", what)
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
		same(t, what, got, expected)
	}
	if until, err := s.UsageUntil(ctxOf(t)); err != nil || !until.IsZero() {
		t.Errorf("nothing was counted until %v, %v", until, err)
	}
	next := hour.Add(time.Hour)
	write("w1", "n1", 1, row("acme", "k1", hour, 1), row("acme", "k2", hour, 2), row("acme", "k1", hour, 4))
	write("w1", "n1", 1, row("acme", "k1", hour, 100)) // was written before
	write("w1", "n1", 2, row("acme", "k1", hour, 8), row("acme", "k1", next, 16))
	write("w2", "n2", 1, row("acme", "k1", hour, 32), row("other", "k3", hour, 64))
	k1, k2, k3, later := row("acme", "k1", hour, 1+4+8+32), row("acme", "k2", hour, 2), row("other", "k3", hour, 64), row("acme", "k1", next, 16)
	read("all", used.Query{}, k1, k2, k3, later)
	read("a key", used.Query{Key: "k1"}, k1, later)
	read("a tenant", used.Query{Tenant: "other"}, k3)
	read("an hour", used.Query{From: next, To: next.Add(time.Hour)}, later)
	if until, err := s.UsageUntil(ctxOf(t)); err != nil || !until.Equal(at.Add(2*time.Second)) {
		t.Errorf("usage is complete until %v, %v", until, err)
	}
	if err := s.PruneUsage(ctxOf(t), at, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if until, err := s.UsageUntil(ctxOf(t)); err != nil || !until.Equal(at.Add(2*time.Second)) {
		t.Errorf("after pruning usage is complete until %v, %v", until, err)
	}
	read("all after pruning", used.Query{}, k1, k2, k3, later)
}

// recentRequests tests that chunks are kept up to a number and a time.
func recentRequests(t *testing.T, s Store) {
	seq := int64(0)
	write := func(key string, count, keep int) {
		t.Helper()
		seq++
		c := used.Chunk{Keyspace: ks, Key: key, Newest: at, Expires: at.Add(time.Duration(seq) * time.Hour), Count: count,
			Entries: fmt.Appendf(nil, "[%d]", seq), Keep: keep}
		if err := s.WriteUsage(ctxOf(t), &used.Batch{Writer: "w", Seq: seq, Chunks: []used.Chunk{c}}); err != nil {
			t.Fatal(err)
		}
	}
	want := func(what, key string, entries ...string) {
		t.Helper()
		chunks, err := s.RecentRequests(ctxOf(t), ks, key)
		if err != nil {
			t.Fatal(err)
		}
		got := []string{}
		for _, c := range chunks {
			got = append(got, string(c.Entries))
		}
		same(t, what, got, append([]string{}, entries...))
	}
	write("k1", 5, 10)
	write("k1", 5, 0)
	write("k2", 1, 10)
	write("k1", 5, 0)
	want("nobody looked", "k1", "[4]", "[2]", "[1]")
	write("k1", 3, 10)
	want("those that hold the last ten", "k1", "[5]", "[4]", "[2]")
	want("another key's", "k2", "[3]")
	want("nobody's", "k3")
	if err := s.PruneUsage(ctxOf(t), at.Add(2*time.Hour+time.Minute), at); err != nil {
		t.Fatal(err)
	}
	want("expired", "k1", "[5]", "[4]")
}
