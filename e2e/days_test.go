package e2e

import (
	"database/sql"
	"net/http"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
)

// TestOldUsage checks that usage of old hours is kept by day: the counts must be complete, and a request
// for single hours must be rejected.
func TestOldUsage(t *testing.T) {
	t.Parallel()
	s := &site{gateway: start(t, shipped(t, "Caddyfile.example"), newUpstream(t)), product: example}
	s.tenant(t, "acme", nil)
	k := s.key(t, "acme", nil)
	s.call(t, "GET", s.path, k.full).passed()
	s.gateway.stop()
	day := time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -100)
	db, err := sql.Open("sqlite", s.database)
	if err != nil {
		t.Fatal(err)
	}
	for h := range 24 {
		if _, err := db.Exec(`INSERT INTO usage (keyspace, hour, key_id, node, tenant, requests, allowed, refused, upstream_errors, credits, bytes_in, bytes_out)
			VALUES ('default', ?, ?, 'local', 'acme', 3, 2, 'rate_limited:1', 0, 5, 0, 7)`, day.Add(time.Duration(h)*time.Hour).Unix(), k.id); err != nil {
			t.Fatal(err)
		}
	}
	db.Close()
	s.gateway.start()
	by := func(step string) string {
		return query("/v1/keys/"+k.id+"/usage", "step", step, "from", day.Add(5*time.Hour).Format(time.RFC3339), "to", after(0))
	}
	testkit.Eventually(t, "the hours' end", func() bool { return s.manage(t, "GET", by("hour"), nil).status == http.StatusUnprocessableEntity })
	s.manage(t, "GET", by("hour"), nil).want(http.StatusUnprocessableEntity).problem("invalid_field")
	lines := s.read(t, by("day")).records("data")
	if len(lines) != 2 {
		t.Fatalf("by day: %v", lines)
	}
	old := lines[0]
	refused, _ := old["refused"].(map[string]any)
	if old.text("from") != day.Format(time.RFC3339) || old["requests"] != 72.0 || old["allowed"] != 48.0 || refused["rate_limited"] != 24.0 || old["credits"] != 120.0 || old["bytes_out"] != 168.0 {
		t.Errorf("the old day is %v", old)
	}
	if n := len(s.read(t, "/v1/keys/"+k.id+"/usage").records("data")); n != 1 {
		t.Errorf("%d lines of the last 24 hours", n)
	}
}
