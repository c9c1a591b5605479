package usage

import (
	"bytes"
	"encoding/csv"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/plugin/transfer"
)

func TestDefuse(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "acme": "acme", "a=1": "a=1", "1-2": "1-2",
		"=1+1": "'=1+1", "+1": "'+1", "-1": "'-1", "@SUM(A1)": "'@SUM(A1)", "\t=1": "'\t=1", "\r=1": "'\r=1", "\n=1": "'\n=1",
		"|cmd": "'|cmd", "%0a": "'%0a", "＝1+1": "'＝1+1",
	} {
		if got := transfer.Defuse(in); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}

func TestCSV(t *testing.T) {
	from := time.Date(2026, 3, 4, 5, 0, 0, 0, time.UTC)
	until, p50 := from.Add(time.Hour), 12.5
	r := Report{CompleteUntil: &until, Data: []Line{
		{From: from, Tenant: "-acme", Key: "key_1", Requests: 3, Allowed: 1, Rejected: map[string]int64{"rate_limited": 2}, Credits: 7, Latency: Latency{P50: &p50}},
		{From: until, Requests: 1, Allowed: 1},
	}}
	var b bytes.Buffer
	if err := r.WriteCSV(&b, ByHour); err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(&b).ReadAll()
	if err != nil || len(rows) != 3 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	cell := func(row int, name string) string {
		t.Helper()
		for i, n := range rows[0] {
			if n == name {
				return rows[row][i]
			}
		}
		t.Fatalf("no column %s in %v", name, rows[0])
		return ""
	}
	for _, tt := range []struct {
		row        int
		name, want string
	}{
		{1, "from", "2026-03-04T05:00:00Z"}, {1, "tenant", "'-acme"}, {1, "key", "key_1"}, {1, "requests", "3"}, {1, "refused", "2"},
		{1, "refused_rate_limited", "2"}, {1, "refused_expired_key", "0"}, {1, "credits", "7"}, {1, "latency_ms_p50", "12.5"},
		{1, "latency_ms_p99", ""}, {1, "complete", "true"}, {2, "complete", "false"}, {2, "refused", "0"},
	} {
		if got := cell(tt.row, tt.name); got != tt.want {
			t.Errorf("row %d, %s: %q, want %q", tt.row, tt.name, got, tt.want)
		}
	}
}
