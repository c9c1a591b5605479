package storetest

import (
	"errors"
	"testing"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
)

// Secrets are found by how their digests begin, and keys by what they were imported as.
func imports(t *testing.T, s Store) {
	withKeys(t, s, "acme", 4)
	lead := apikey.Lead{0xff, 1, 2, 0xff}
	mark := apikey.Mark{7}
	update(t, s, func(tx management.Tx) error {
		for i, last := range []byte{0, 0x7f, 0xff} {
			led := secret("led-"+string('a'+rune(i)), "acme-0", "")
			copy(led.Digest, lead[:])
			for j := len(lead); j < len(led.Digest); j++ {
				led.Digest[j] = last
			}
			led.Algorithm = "bcrypt:x"
			if i == 2 {
				led.KeyID = "acme-1"
			}
			if err := tx.InsertSecret(led); err != nil {
				return err
			}
		}
		if n, err := tx.CountLed(ks, lead); err != nil || n != 3 {
			t.Errorf("CountLed = %d, %v", n, err)
		}
		if k, err := tx.KeyByDigest(ks, digest("acme-2")); err != nil || k.ID != "acme-2" || k.Tenant != "acme" {
			t.Errorf("KeyByDigest = %+v, %v", k, err)
		}
		for _, where := range []struct{ keyspace, full string }{{"other", "acme-2"}, {ks, "nobody's"}} {
			if _, err := tx.KeyByDigest(where.keyspace, digest(where.full)); !errors.Is(err, gateway.ErrNotFound) {
				t.Errorf("KeyByDigest of %v: %v", where, err)
			}
		}
		for range 2 { // twice is as good as once
			if err := tx.InsertMark(ks, mark, "acme-3"); err != nil {
				return err
			}
		}
		return nil
	})
	list, err := s.SecretsLed(ctxOf(t), ks, lead, 10)
	if err != nil || len(list) != 3 || list[0].Algorithm != "bcrypt:x" {
		t.Errorf("SecretsLed = %+v, %v", list, err)
	}
	if list, err := s.SecretsLed(ctxOf(t), ks, lead, 2); err != nil || len(list) != 2 {
		t.Errorf("SecretsLed, two = %+v, %v", list, err)
	}
	for _, l := range []apikey.Lead{{0xff, 1, 2, 0xfe}, {0xff, 1, 3}} {
		if list, err := s.SecretsLed(ctxOf(t), ks, l, 10); err != nil || len(list) != 0 {
			t.Errorf("SecretsLed of %x = %+v, %v", l, list, err)
		}
	}
	if list, err := s.SecretsLed(ctxOf(t), "other", lead, 10); err != nil || len(list) != 0 {
		t.Errorf("SecretsLed of another keyspace = %+v, %v", list, err)
	}
	view(t, s, func(tx management.Tx) error {
		if k, err := tx.ImportedAs(ks, mark); err != nil || k.ID != "acme-3" {
			t.Errorf("ImportedAs = %+v, %v", k, err)
		}
		for keyspace, m := range map[string]apikey.Mark{ks: {8}, "other": mark} {
			if _, err := tx.ImportedAs(keyspace, m); !errors.Is(err, gateway.ErrNotFound) {
				t.Errorf("ImportedAs of %s: %v", keyspace, err)
			}
		}
		return nil
	})
}
