// Package storetest is the test suite for stores. The tests of each store package call Run.
package storetest

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/store"
	"github.com/keygate-dev/keygate/plugin/usage"
)

// Store is a store with all interfaces that the test suite needs.
type Store interface {
	gateway.Store
	management.Store
	usage.Store
}

// Run runs the test suite on the stores that open returns. Each call of open must return a new, empty
// store, and close the store when the given test ends.
func Run(t *testing.T, open func(t *testing.T) Store) {
	for _, tc := range []struct {
		name string
		test func(t *testing.T, s Store)
	}{
		{"TenantRoundTrip", tenantRoundTrip},
		{"TenantSlugs", tenantSlugs},
		{"TenantPaging", tenantPaging},
		{"Plans", plans},
		{"KeyRoundTrip", keyRoundTrip},
		{"KeyFilters", keyFilters},
		{"KeyPaging", keyPaging},
		{"ActiveKeys", activeKeys},
		{"Allowances", allowances},
		{"Secrets", secrets},
		{"Lookup", lookup},
		{"LookupDeleted", lookupDeleted},
		{"Digests", digests},
		{"Rehash", rehash},
		{"SetShown", setShown},
		{"Imports", imports},
		{"Changes", changes},
		{"ChangesConcurrent", changesConcurrent},
		{"Wait", wait},
		{"UpdateAtomic", updateAtomic},
		{"UpdatePanic", updatePanic},
		{"UpdateCancelled", updateCancelled},
		{"ViewSnapshot", viewSnapshot},
		{"CapUnderLoad", capUnderLoad},
		{"Audit", auditRows},
		{"Checkpoints", checkpoints},
		{"AuditChainConcurrent", auditChainConcurrent},
		{"AuditErase", auditErase},
		{"Ledger", ledger},
		{"Leases", leases},
		{"Spends", spends},
		{"CreditsConcurrent", creditsConcurrent},
		{"Touches", touches},
		{"QuotaCounts", quotaCounts},
		{"UsageDays", usageDays},
		{"QuotaPruning", quotaPruning},
		{"UsageBatches", usageBatches},
		{"RecentRequests", recentRequests},
		{"Peppers", peppers},
		{"Tokens", tokens},
		{"Sessions", sessions},
		{"PortalLinks", portalLinks},
		{"Idempotency", idempotencyRecords},
		{"Webhooks", webhookRows},
		{"Deliveries", deliveries},
		{"OneShots", oneShots},
		{"Closed", closed},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.test(t, open(t)) })
	}
}

const ks = "default"

// at is a time that every store keeps exactly: whole microseconds in UTC.
var at = time.Date(2026, 3, 4, 5, 6, 7, 8000, time.UTC)

func ctxOf(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
	t.Cleanup(cancel)
	return ctx
}

func update(t *testing.T, s Store, f func(store.Tx) error) {
	t.Helper()
	if err := s.Update(ctxOf(t), func(tx management.Tx) error { return f(tx.(store.Tx)) }); err != nil {
		t.Fatalf("Update: %v", err)
	}
}

func view(t *testing.T, s Store, f func(store.Tx) error) {
	t.Helper()
	if err := s.View(ctxOf(t), func(tx management.Tx) error { return f(tx.(store.Tx)) }); err != nil {
		t.Fatalf("View: %v", err)
	}
}

func tenant(slug string) *gateway.Tenant {
	return &gateway.Tenant{Keyspace: ks, Slug: slug, Name: slug, Plan: "free", Active: true, CreatedAt: at, UpdatedAt: at}
}

func key(id, tenant string) *gateway.Key {
	return &gateway.Key{ID: id, Keyspace: ks, Tenant: tenant, Name: id, Environment: "live", CreatedAt: at, UpdatedAt: at,
		Prefix: "kg_live_abcd", LastFour: "wxyz"}
}

func digest(text string) apikey.Digest { return sha256.Sum256([]byte(text)) }

func candidate(text string) apikey.Candidate {
	return apikey.Candidate{Algorithm: "sha256", Digest: digest(text)}
}

func secret(id, keyID, full string) gateway.Secret {
	d := digest(full)
	return gateway.Secret{ID: id, KeyID: keyID, Keyspace: ks, Digest: d[:], Algorithm: "sha256",
		Prefix: "kg_live_abcd", LastFour: "wxyz", CreatedAt: at}
}

// withKeys adds a tenant with n keys. The ids of the keys are <slug>-0, <slug>-1 and so on. The full key
// equals the id.
func withKeys(t *testing.T, s Store, slug string, n int) {
	t.Helper()
	update(t, s, func(tx store.Tx) error {
		if err := tx.InsertTenant(tenant(slug)); err != nil {
			return err
		}
		for i := range n {
			id := fmt.Sprintf("%s-%d", slug, i)
			if err := tx.InsertKey(key(id, slug)); err != nil {
				return err
			}
			if err := tx.InsertSecret(secret("s-"+id, id, id)); err != nil {
				return err
			}
		}
		return nil
	})
}

func addCredits(t *testing.T, s Store, slug string, amount int64) {
	t.Helper()
	update(t, s, func(tx store.Tx) error {
		return tx.AddCredits(&management.LedgerEntry{Keyspace: ks, Tenant: slug, Kind: "add", Amount: amount, At: at})
	})
}

func balance(t *testing.T, s Store, slug string) (n int64) {
	t.Helper()
	view(t, s, func(tx store.Tx) error {
		got, err := tx.Tenant(ks, slug)
		if err == nil {
			n = got.Credits
		}
		return err
	})
	return n
}

// asJSON returns v as JSON. Tests compare the JSON of values, so that empty and missing parts are equal.
func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func same(t *testing.T, name string, got, want any) {
	t.Helper()
	if g, w := asJSON(t, got), asJSON(t, want); g != w {
		t.Errorf("%s:\n got %s\nwant %s", name, g, w)
	}
}

func wantErr(t *testing.T, doing string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", doing, err, want)
	}
}

func cidr(s string) netip.Prefix { return netip.MustParsePrefix(s) }
