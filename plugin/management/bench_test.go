package management_test

import (
	"testing"

	"github.com/keygate-dev/keygate/plugin/management"
)

// One key made, audited, synced to disk, and known to the gateway.
func BenchmarkCreateKey(b *testing.B) {
	w := newWorld(b)
	w.tenant("acme", "pro")
	b.ReportAllocs()
	for b.Loop() {
		w.key("acme")
	}
}

// One page of a tenant's keys.
func BenchmarkListKeys(b *testing.B) {
	w := newWorld(b)
	w.tenant("acme", "pro")
	for range 100 {
		w.key("acme")
	}
	b.ReportAllocs()
	for b.Loop() {
		p := must[management.Page[management.KeyRecord]](b)(w.Keys(ctx, ada, "", management.KeyFilter{Tenant: "acme"}))
		if len(p.Data) != management.DefaultPage {
			b.Fatalf("%d keys", len(p.Data))
		}
	}
}

// A thousand events read and hashed.
func BenchmarkVerifyAudit(b *testing.B) {
	w := newWorld(b)
	w.tenant("acme", "pro")
	for range 999 {
		w.key("acme")
	}
	b.ReportAllocs()
	for b.Loop() {
		w.wantIntact(1000)
	}
}
