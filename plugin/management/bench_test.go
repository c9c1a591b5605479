package management_test

import (
	"testing"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/management"
)

// BenchmarkCreateKey creates a key, which is audited, synced to disk and applied by the gateway.
func BenchmarkCreateKey(b *testing.B) {
	w := newFixture(b)
	w.tenant("acme", "pro")
	b.ReportAllocs()
	for b.Loop() {
		w.key("acme")
	}
}

// BenchmarkListKeys reads one page of a tenant's keys.
func BenchmarkListKeys(b *testing.B) {
	w := newFixture(b)
	w.tenant("acme", "pro")
	for range 100 {
		w.key("acme")
	}
	b.ReportAllocs()
	for b.Loop() {
		p := testkit.Must[management.Page[management.KeyRecord]](b)(w.Keys(ctx, ada, "", management.KeyFilter{Tenant: "acme"}))
		if len(p.Data) != management.DefaultPage {
			b.Fatalf("%d keys", len(p.Data))
		}
	}
}

// BenchmarkVerifyAudit reads and verifies a chain of a thousand events.
func BenchmarkVerifyAudit(b *testing.B) {
	w := newFixture(b)
	w.tenant("acme", "pro")
	for range 999 {
		w.key("acme")
	}
	b.ReportAllocs()
	for b.Loop() {
		w.wantIntact(1000)
	}
}
