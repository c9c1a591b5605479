package storetest

import (
	"errors"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/auth"
	"github.com/keygate-dev/keygate/plugin/store"
)

func token(id, tenant, by string) *management.Token {
	c := candidate(id)
	return &management.Token{
		ID: id, Keyspace: ks, Name: "n " + id, Scopes: []string{"keys:read", "keys:write"}, Tenant: tenant, Digest: c.Digest[:], Algorithm: c.Algorithm,
		Prefix: "kgm_", LastFour: "abcd", CreatedAt: at, CreatedBy: "ada", CreatedByToken: by, ExpiresAt: at.Add(time.Hour),
	}
}

func tokens(t *testing.T, s Store) {
	other := token("other", "", "")
	other.Keyspace = "other"
	update(t, s, func(tx store.Tx) error {
		for _, k := range []*management.Token{token("a", "", ""), token("b", "acme", "a"), token("c", "acme", "b"), token("d", "x", ""), other} {
			if err := tx.InsertToken(k); err != nil {
				return err
			}
		}
		return nil
	})
	ids := func(list []*management.Token, err error) (out string) {
		if err != nil {
			t.Error(err)
		}
		for _, k := range list {
			out += k.ID
		}
		return out
	}
	view(t, s, func(tx store.Tx) error {
		got, err := tx.Token(ks, "b")
		if err != nil {
			return err
		}
		same(t, "token", got, token("b", "acme", "a"))
		_, err = tx.Token(ks, "other")
		wantErr(t, "in another keyspace", err, gateway.ErrNotFound)
		for _, c := range []struct {
			q    auth.TokenQuery
			want string
		}{
			{auth.TokenQuery{Limit: 9}, "dcba"}, {auth.TokenQuery{Limit: 2}, "dc"},
			{auth.TokenQuery{Before: "c", Limit: 9}, "ba"}, {auth.TokenQuery{Before: "other", Limit: 9}, ""},
			{auth.TokenQuery{Tenant: "acme", Limit: 9}, "cb"}, {auth.TokenQuery{Tenant: "ac", Limit: 9}, ""},
		} {
			c.q.Keyspace = ks
			if list := ids(tx.Tokens(c.q)); list != c.want {
				t.Errorf("%+v: %s, want %s", c.q, list, c.want)
			}
		}
		if k, err := tx.TokenByDigest([]apikey.Candidate{candidate("nothing"), candidate("other")}); err != nil || k.ID != "other" {
			t.Errorf("by digest: %v, %v", k, err)
		}
		wrong := candidate("a")
		wrong.Algorithm = "hmac-sha256:00000000"
		_, err = tx.TokenByDigest([]apikey.Candidate{wrong})
		wantErr(t, "under another algorithm", err, gateway.ErrNotFound)
		return nil
	})
	later := at.Add(time.Minute)
	update(t, s, func(tx store.Tx) error {
		if list := ids(tx.RevokeTokens("other", "a", later)); list != "" {
			t.Errorf("revoked in another keyspace: %s", list)
		}
		if list := ids(tx.RevokeTokens(ks, "b", later)); list != "bc" {
			t.Errorf("revoking b revoked %s, want bc", list)
		}
		if list := ids(tx.RevokeTokens(ks, "a", later.Add(1))); list != "a" {
			t.Errorf("revoking a revoked %s, want a", list)
		}
		primary := apikey.Candidate{Algorithm: "hmac-sha256:11111111", Digest: candidate("new").Digest}
		if err := errors.Join(tx.TouchToken("d", later, "192.0.2.1"), tx.TouchToken("d", at, "192.0.2.2"), tx.RehashToken("d", primary)); err != nil {
			return err
		}
		k, err := tx.TokenByDigest([]apikey.Candidate{primary})
		if err != nil {
			return err
		}
		want := token("d", "x", "")
		want.LastUsedAt, want.LastUsedIP, want.Digest, want.Algorithm = later, "192.0.2.1", primary.Digest[:], primary.Algorithm
		same(t, "touched and rehashed", k, want)
		k, err = tx.LockToken(ks, "c")
		if err == nil && !k.RevokedAt.Equal(later) {
			t.Errorf("c is revoked at %v", k.RevokedAt)
		}
		return err
	})
}
