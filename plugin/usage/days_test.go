package usage_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/usage"
)

// A tracker combines hours into days when they are older than their keyspace keeps hours, and goes
// on counting.
func TestTrackerCombinesHoursIntoDays(t *testing.T) {
	const day = 24 * time.Hour
	s := openStore(t, filepath.Join(t.TempDir(), "keygate.db"))
	now := time.Now().UTC().Truncate(day)
	var rows []usage.Row
	for _, keyspace := range []string{"default", "short"} {
		for h := range 24 {
			for _, ago := range []time.Duration{3, 91} {
				rows = append(rows, usage.Row{Keyspace: keyspace, Tenant: "acme", Key: "k", Hour: now.Add(-ago*day + time.Duration(h)*time.Hour), Counts: &usage.Counts{Requests: 1}})
			}
		}
	}
	if err := s.WriteUsage(t.Context(), &usage.Batch{Writer: "before", Seq: 1, Node: "n1", Until: now, Rows: rows}); err != nil {
		t.Fatal(err)
	}
	tr := usage.NewTracker("n1", quiet)
	tr.KeepHours = func(keyspace string) time.Duration {
		if keyspace == "short" {
			return 2 * day
		}
		return usage.DefaultHours
	}
	if err := tr.Start(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	defer tr.Close(context.Background())
	count(tr.Counter("default", "acme", "k"), usage.Request{Status: 200})
	read := func(keyspace string) (requests int64, hours, days int) {
		q := usage.Query{Keyspace: keyspace, From: now.Add(-100 * day), To: now.Add(2 * day)}
		if err := s.ReadUsage(t.Context(), q, func(r *usage.Row) error {
			if requests += r.Requests; r.Daily {
				days++
			} else {
				hours++
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return requests, hours, days
	}
	testkit.Eventually(t, "the hours beyond each keyspace's limit are days", func() bool {
		n, hours, days := read("default")
		short, shortHours, shortDays := read("short")
		if n < 48 || short != 48 {
			t.Fatalf("the keyspace default has %d requests, want at least 48; short has %d, want 48", n, short)
		}
		return n == 49 && hours == 25 && days == 1 && shortHours == 0 && shortDays == 2
	})
}
