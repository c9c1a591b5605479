package storetest

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/auth"
	"github.com/keygate-dev/keygate/plugin/store"
)

func session(id, tenant string) *auth.Session {
	d := digest("session " + id)
	return &auth.Session{
		ID: id, Keyspace: ks, Digest: d[:], Kind: auth.SessionByPortal, Tenant: tenant, Token: "tok", Name: "Ada", Scopes: []string{"keys:read", "usage:read"},
		ReturnURL: "https://app.example.com/", CreatedAt: at, CreatedIP: "192.0.2.1", ExpiresAt: at.Add(12 * time.Hour), LastUsedAt: at, LastUsedIP: "192.0.2.1",
	}
}

func sessions(t *testing.T, s Store) {
	other, byToken := session("other", ""), session("tok", "")
	other.Keyspace = "other"
	byToken.Kind, byToken.Scopes = auth.SessionByToken, []string{"*"}
	update(t, s, func(tx store.Tx) error {
		for _, one := range []*auth.Session{session("a", "acme"), session("b", "x"), session("c", "acme"), byToken, other} {
			if err := tx.InsertSession(one); err != nil {
				return err
			}
		}
		return nil
	})
	ids := func(list []*auth.Session, err error) (out string) {
		if err != nil {
			t.Error(err)
		}
		for _, one := range list {
			out += one.ID + " "
		}
		return out
	}
	view(t, s, func(tx store.Tx) error {
		got, err := tx.SessionByDigest(session("a", "").Digest)
		if err != nil {
			return err
		}
		same(t, "session", got, session("a", "acme"))
		got, err = tx.Session(ks, "tok")
		if err != nil {
			return err
		}
		byToken.Scopes = nil
		same(t, "a session by a token, which has the scopes of the token", got, byToken)
		_, err = tx.Session(ks, "other")
		wantErr(t, "in another keyspace", err, gateway.ErrNotFound)
		_, err = tx.SessionByDigest([]byte("nothing"))
		wantErr(t, "an unknown digest", err, gateway.ErrNotFound)
		for _, c := range []struct {
			q    auth.SessionQuery
			want string
		}{
			{auth.SessionQuery{Limit: 9}, "tok c b a "}, {auth.SessionQuery{Limit: 2}, "tok c "},
			{auth.SessionQuery{Before: "c", Limit: 9}, "b a "}, {auth.SessionQuery{Before: "other", Limit: 9}, ""},
			{auth.SessionQuery{Tenant: "acme", Limit: 9}, "c a "},
		} {
			c.q.Keyspace = ks
			if list := ids(tx.Sessions(c.q)); list != c.want {
				t.Errorf("%+v: %s, want %s", c.q, list, c.want)
			}
		}
		return nil
	})
	later := at.Add(time.Minute)
	update(t, s, func(tx store.Tx) error {
		if err := errors.Join(tx.TouchSession("a", later, "192.0.2.9"), tx.TouchSession("a", at, "192.0.2.8")); err != nil {
			return err
		}
		if ended, err := tx.EndSession("other", "a", later); ended || err != nil {
			t.Errorf("ended in another keyspace: %v, %v", ended, err)
		}
		if ended, err := tx.EndSession(ks, "a", later); !ended || err != nil {
			t.Errorf("EndSession: %v, %v", ended, err)
		}
		if ended, err := tx.EndSession(ks, "a", later.Add(time.Hour)); ended || err != nil {
			t.Errorf("EndSession again: %v, %v", ended, err)
		}
		want := session("a", "acme")
		want.LastUsedAt, want.LastUsedIP, want.EndedAt = later, "192.0.2.9", later
		got, err := tx.Session(ks, "a")
		if err == nil {
			same(t, "used and ended", got, want)
		}
		return err
	})
	update(t, s, func(tx store.Tx) error { return tx.PruneSessions(at.Add(12*time.Hour + time.Microsecond)) })
	view(t, s, func(tx store.Tx) error {
		if list := ids(tx.Sessions(auth.SessionQuery{Keyspace: ks, Limit: 9})); list != "" {
			t.Errorf("after pruning there are %s", list)
		}
		return nil
	})
}

func portalLinks(t *testing.T, s Store) {
	d := digest("link")
	link := func() *auth.PortalLink {
		return &auth.PortalLink{
			ID: "lnk_1", Keyspace: ks, Digest: d[:], Tenant: "acme", Token: "tok", Name: "Ada", Role: auth.PortalEditor,
			ReturnURL: "https://app.example.com/", CreatedAt: at, ExpiresAt: at.Add(time.Minute),
		}
	}
	update(t, s, func(tx store.Tx) error { return tx.InsertPortalLink(link()) })
	update(t, s, func(tx store.Tx) error {
		_, err := tx.UsePortalLink("other", d[:], at)
		wantErr(t, "in another keyspace", err, gateway.ErrNotFound)
		_, err = tx.PortalLink("other", d[:])
		wantErr(t, "read in another keyspace", err, gateway.ErrNotFound)
		// Reading a portal link does not mark it as used.
		l, err := tx.PortalLink(ks, d[:])
		if err == nil {
			same(t, "link", l, link())
		}
		return err
	})
	// If several callers use a portal link concurrently, only one of them succeeds.
	var mu sync.Mutex
	var got []*auth.PortalLink
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			var l *auth.PortalLink
			err := s.Update(ctxOf(t), func(tx management.Tx) (err error) {
				l, err = tx.(store.Tx).UsePortalLink(ks, d[:], at)
				return err
			})
			switch {
			case err == nil:
				mu.Lock()
				got = append(got, l)
				mu.Unlock()
			case !errors.Is(err, gateway.ErrNotFound):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(got) != 1 {
		t.Fatalf("%d callers used the link", len(got))
	}
	same(t, "link", got[0], link())
	view(t, s, func(tx store.Tx) error {
		_, err := tx.PortalLink(ks, d[:])
		wantErr(t, "read after its use", err, gateway.ErrNotFound)
		return nil
	})
}
