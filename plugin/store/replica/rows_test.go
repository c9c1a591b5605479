package replica_test

import (
	"crypto/sha256"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
)

const ks = "default"

func candidate(full string) apikey.Candidate {
	return apikey.Candidate{Algorithm: apikey.SHA256, Digest: sha256.Sum256([]byte(full))}
}

// addTenant inserts a tenant and its change.
func addTenant(t testing.TB, s management.Store, slug string) {
	t.Helper()
	now := time.Now().UTC().Truncate(time.Microsecond)
	if err := s.Update(ctxOf(t), func(tx management.Tx) error {
		if err := tx.InsertTenant(&gateway.Tenant{Keyspace: ks, Slug: slug, Name: slug, Plan: "free", Active: true, CreatedAt: now, UpdatedAt: now}); err != nil {
			return err
		}
		_, err := tx.Change(gateway.ChangeTenant, ks, slug)
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// addKey inserts a key with one secret, and its change.
func addKey(t testing.TB, s management.Store, tenant, id, full string) {
	t.Helper()
	now := time.Now().UTC().Truncate(time.Microsecond)
	digest := candidate(full).Digest
	if err := s.Update(ctxOf(t), func(tx management.Tx) error {
		k := &gateway.Key{ID: id, Keyspace: ks, Tenant: tenant, Name: id, Environment: "live", CreatedAt: now, UpdatedAt: now, Prefix: "kg_live_abcd", LastFour: "wxyz"}
		if err := tx.InsertKey(k); err != nil {
			return err
		}
		if err := tx.InsertSecret(gateway.Secret{ID: "sec_" + id, KeyID: id, Keyspace: ks, Digest: digest[:], Algorithm: apikey.SHA256,
			Prefix: k.Prefix, LastFour: k.LastFour, CreatedAt: now}); err != nil {
			return err
		}
		_, err := tx.Change(gateway.ChangeKey, ks, id)
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// lookup returns the record of a full key, or nil if the key is unknown.
func lookup(t testing.TB, s gateway.Store, full string) *gateway.Record {
	t.Helper()
	rec, err := s.Lookup(ctxOf(t), ks, []apikey.Candidate{candidate(full)})
	if err == nil {
		return rec
	}
	if err != gateway.ErrNotFound {
		t.Fatal(err)
	}
	return nil
}
