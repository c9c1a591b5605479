package console

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"testing"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
)

// BenchmarkPages measures pages over HTTP in a keyspace with 100,000 keys.
func BenchmarkPages(b *testing.B) {
	w := newFixture(b)
	const tenants, each = 100, 1000
	var last string
	for i := range tenants {
		slug := fmt.Sprintf("tenant-%d", i)
		w.tenant(slug, "pro")
		err := w.store.Update(ctx, func(tx management.Tx) error {
			for j := range each {
				last = fmt.Sprintf("key_%026d", i*each+j)
				sum := sha256.Sum256([]byte(last))
				k := &gateway.Key{
					ID: last, Keyspace: "default", Tenant: slug, Name: fmt.Sprintf("Key %d of %s", j, slug), Environment: "live", Scopes: []string{"deployment"},
					CreatedAt: w.clock.Now(), UpdatedAt: w.clock.Now(), CreatedBy: "root", Prefix: fmt.Sprintf("kg_live_%04d", j), LastFour: "wxyz",
				}
				if err := tx.InsertKey(k); err != nil {
					return err
				}
				if err := tx.InsertSecret(gateway.Secret{
					ID: "sec_" + last[4:], KeyID: k.ID, Keyspace: "default", Digest: sum[:], Algorithm: "sha256", Prefix: k.Prefix, LastFour: "wxyz", CreatedAt: w.clock.Now(),
				}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	op := w.operator()
	for _, path := range []string{"/keys", "/keys?q=key+7+of+tenant-55", "/keys?q=nowhere", "/keys?status=disabled", "/keys?tenant=tenant-7", "/keys/" + last, "/tenants", "/overview"} {
		b.Run(path, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if p := op.get(path); p.status != http.StatusOK {
					b.Fatal(p.status)
				}
			}
		})
	}
}
