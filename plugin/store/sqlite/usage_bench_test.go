package sqlite

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/plugin/usage"
)

// BenchmarkWriteUsage measures the time to write one second's usage of a thousand keys.
func BenchmarkWriteUsage(b *testing.B) {
	s := openTest(b, filepath.Join(b.TempDir(), "keygate.db"))
	hour := time.Now().UTC().Truncate(time.Hour)
	batch := &usage.Batch{Writer: "w", Node: "n", Until: hour}
	for i := range 1000 {
		c := &usage.Counts{Requests: 7, Allowed: 7, BytesOut: 4000}
		for k := range 7 {
			c.Latency.Add(time.Duration(1+k) * time.Millisecond)
		}
		batch.Rows = append(batch.Rows, usage.Row{Keyspace: "default", Tenant: "acme", Key: fmt.Sprintf("key_%026d", i), Hour: hour, Counts: c})
	}
	b.ReportAllocs()
	for b.Loop() {
		batch.Seq++
		if err := s.WriteUsage(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
	}
}
