package management_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/importer"
)

const theirPepper = "pepper of the former system"

// accepting activates a configuration that also accepts keys that begin with old_.
func (w *fixture) accepting(peppers ...string) {
	w.t.Helper()
	w.configure("free", 3, "free")
	hasher := testkit.Must[*apikey.Hasher](w.t)(apikey.NewHasher(peppers...))
	hasher = testkit.Must[*apikey.Hasher](w.t)(hasher.WithImportPeppers(theirPepper))
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []*gateway.Keyspace
	for _, ks := range w.view.Keyspaces {
		if ks.Name == "default" {
			ks.Grammar = testkit.Must[*apikey.Grammar](w.t)(apikey.NewGrammar([]apikey.Prefix{
				{Value: "kg_live_", Environment: "live"}, {Value: "kg_test_", Environment: "test"},
			}, apikey.Format{}, []apikey.Accept{{Name: "legacy", Prefix: "old_", MinLength: 20, MaxLength: 40}}))
		}
		all = append(all, ks)
	}
	w.view = gateway.NewView(hasher, all...)
}

func (w *fixture) importRows(rows ...importer.Row) importer.Report {
	w.t.Helper()
	r := testkit.Must[importer.Report](w.t)(importer.Import(ctx, w.Manager, ada, "", rows, importer.Options{}))
	if len(r.Data) != len(rows) || r.Created+r.Unchanged+r.Rejected != len(rows) {
		w.t.Errorf("report of %d rows: %+v", len(rows), r)
	}
	return r
}

func oldKey(i int) string {
	return fmt.Sprintf("old_%04dabcdefghijklmnopqrs", i)
}

// hashedRow returns the import row of a key whose hash another system has stored.
func hashedRow(t testing.TB, tenant, key, algorithm string) importer.Row {
	t.Helper()
	row := importer.Row{Tenant: tenant, Algorithm: management.Some(algorithm), Prefix: management.Some(key[:12])}
	switch algorithm {
	case "sha256":
		sum := sha256.Sum256([]byte(key))
		row.Hash = management.Some(hex.EncodeToString(sum[:]))
	case "sha512":
		sum := sha512.Sum512([]byte(key))
		row.Hash = management.Some(base64.StdEncoding.EncodeToString(sum[:]))
	case "hmac-sha256":
		mac := hmac.New(sha256.New, []byte(theirPepper))
		mac.Write([]byte(key))
		row.Hash = management.Some(hex.EncodeToString(mac.Sum(nil)))
	case "bcrypt":
		row.Hash = management.Some(string(testkit.Must[[]byte](t)(bcrypt.GenerateFromPassword([]byte(key), bcrypt.MinCost))))
	default:
		t.Fatal(algorithm)
	}
	return row
}

func plainRow(tenant, key string) importer.Row {
	return importer.Row{Tenant: tenant, Key: management.Some(key)}
}

var algorithms = []string{"sha256", "sha512", "hmac-sha256", "bcrypt"}

// TestKeyShowsItsEndsOnceUsed proves that a record shows the real beginning and end of a key after
// its first use. Before that, an imported hash may have neither, and an older version stored other
// characters.
func TestKeyShowsItsEndsOnceUsed(t *testing.T) {
	w := newFixture(t)
	w.accepting()
	w.tenant("acme", "business")
	grammar := w.current().Keyspaces["default"].Grammar
	full := testkit.Must[string](t)(grammar.Generate("live"))
	row := hashedRow(t, "acme", full, "sha256")
	row.Prefix = management.Optional[string]{}
	imported := *w.importRows(row).Data[0].ID
	issued := testkit.Must[management.IssuedKey](t)(w.CreateKey(ctx, ada, "", "acme", management.KeyFields{Name: management.Some("ci")}))
	if !strings.HasSuffix(issued.Key, issued.LastFour) || len(issued.LastFour) != 4 {
		t.Errorf("%s ends in %s", issued.Key, issued.LastFour)
	}
	if err := w.store.Update(ctx, func(tx management.Tx) error {
		secrets, err := tx.Secrets("default", issued.ID)
		if err != nil {
			return err
		}
		secrets[0].LastFour = issued.Key[len(issued.Key)-10 : len(issued.Key)-6] // Version 0.1.0 stored these characters.
		return tx.UpdateSecret(secrets[0])
	}); err != nil {
		t.Fatal(err)
	}
	for id, key := range map[string]string{imported: full, issued.ID: issued.Key} {
		w.wantReason(key, gateway.Allowed)
		testkit.Eventually(t, "the ends of "+key, func() bool {
			k := testkit.Must[management.KeyRecord](t)(w.Key(ctx, ada, "", id))
			return k.KeyPrefix == key[:12] && k.LastFour == key[len(key)-4:] && k.Secrets[0].LastFour == k.LastFour
		})
	}
	w.wantIntact(3) // The chain has an event for the tenant and one for each key. The corrected ends have none.
}

// TestImportOfUnknownShape proves that an import rejects a hash if the gateway would reject its
// key for its shape, unless the options allow it.
func TestImportOfUnknownShape(t *testing.T) {
	w := newFixture(t) // The configuration accepts only keys that begin with kg_live_ or kg_test_.
	w.tenant("acme", "business")
	bare, stated := hashedRow(t, "acme", oldKey(0), "sha256"), hashedRow(t, "acme", oldKey(1), "sha256")
	bare.Prefix = management.Optional[string]{}
	own := hashedRow(t, "acme", "kg_live_abcdefghijklmnopqrstuvwxyz", "sha256")
	r := w.importRows(bare, stated, own)
	if r.Created != 1 || r.Data[0].Result != importer.Rejected || r.Data[1].Result != importer.Rejected ||
		len(r.AcceptedShapes) != 2 || r.AcceptedShapes[0] != "kg_live_ and 32 characters of base62" {
		t.Errorf("report %+v", r)
	}
	r = testkit.Must[importer.Report](t)(importer.Import(ctx, w.Manager, ada, "", []importer.Row{bare, stated}, importer.Options{AllowUnknownShape: true}))
	if r.Created != 2 {
		t.Errorf("where it is wanted: %+v", r)
	}
	w.wantReason(oldKey(0), gateway.MalformedKey)
	w.accepting()
	for i := range 2 {
		w.wantReason(oldKey(i), gateway.Allowed)
	}
	bare = hashedRow(t, "acme", oldKey(2), "sha256")
	bare.Prefix = management.Optional[string]{}
	if r = w.importRows(bare); r.Created != 1 || r.AcceptedShapes[2] != "legacy: old_ and 20 to 40 characters of base62" {
		t.Errorf("with an accept line: %+v", r)
	}
}

// TestImportIsCheckedAndRehashed proves that a key that was imported in any form is accepted, and
// is then stored in the primary form. Importing it again changes nothing, before and after that.
func TestImportIsCheckedAndRehashed(t *testing.T) {
	for _, peppers := range [][]string{nil, {"a pepper of our own"}} {
		t.Run(fmt.Sprint(len(peppers), " peppers"), func(t *testing.T) {
			w := newFixture(t)
			w.accepting(peppers...)
			w.tenant("acme", "business")
			rows := []importer.Row{plainRow("acme", oldKey(0))}
			for i, a := range algorithms {
				rows = append(rows, hashedRow(t, "acme", oldKey(i+1), a))
			}
			r := w.importRows(rows...)
			if r.Created != len(rows) {
				t.Fatalf("report %+v", r)
			}
			if again := w.importRows(rows...); again.Unchanged != len(rows) || *again.Data[4].ID != *r.Data[4].ID {
				t.Errorf("again: %+v", again)
			}
			for i := range rows {
				w.wantReason(oldKey(i), gateway.Allowed)
				w.wantReason(strings.ToUpper(oldKey(i)[:8])+oldKey(i)[8:], gateway.MalformedKey)
				w.wantReason(oldKey(i)[:len(oldKey(i))-1]+"X", gateway.InvalidKey)
			}
			// A goroutine stores the primary form after the request.
			hasher := w.current().Hasher
			for i := range rows {
				primary := apikey.Candidate{Algorithm: hasher.PrimaryAlgorithm(), Digest: hasher.Primary(oldKey(i))}
				testkit.Eventually(t, fmt.Sprintf("the primary form of row %d", i), func() bool {
					rec, err := w.store.Lookup(ctx, "default", []apikey.Candidate{primary})
					return err == nil && rec.Secret.Algorithm == primary.Algorithm
				})
				w.wantReason(oldKey(i), gateway.Allowed)
			}
			if again := w.importRows(rows...); again.Unchanged != len(rows) {
				t.Errorf("after rehashing: %+v", again)
			}
			w.wantIntact(int64(1 + len(rows)))
			for i, row := range rows[:2] {
				if err := w.DeleteKey(ctx, ada, "", *r.Data[i].ID, nil); err != nil {
					t.Fatal(err)
				}
				w.wantReason(oldKey(i), gateway.InvalidKey)
				if again := w.importRows(row); again.Rejected != 1 || again.Data[0].Code != importer.CodeKeyTaken {
					t.Errorf("a deleted key: %+v", again)
				}
			}
		})
	}
}

// TestImportRules proves that the rules of new keys hold for imported ones, and that a rejected
// row does not reject the others.
func TestImportRules(t *testing.T) {
	w := newFixture(t)
	w.accepting()
	w.tenant("acme", "free") // The plan free allows three active keys and the scope free.
	w.tenant("other", "business")
	w.importRows(plainRow("other", oldKey(900)))
	past := time.Now().Add(-time.Hour)
	row := func(i int, change func(*importer.Row)) importer.Row {
		r := plainRow("acme", oldKey(i))
		change(&r)
		return r
	}
	for _, tc := range []struct {
		name    string
		row     importer.Row
		pointer string
		detail  string
	}{
		{"unknown tenant", plainRow("missing", oldKey(1)), "/tenant", "no such tenant"},
		{"no shape", plainRow("acme", "new_0123456789012345678901"), "/key", "accept legacy"},
		{"bad checksum", plainRow("acme", "kg_live_"+strings.Repeat("a", 32)), "/key", "prefix kg_live_"},
		{"key and hash", row(1, func(r *importer.Row) { r.Hash = management.Some("x") }), "/key", "either"},
		{"neither", importer.Row{Tenant: "acme"}, "/key", "either"},
		{"no algorithm", importer.Row{Tenant: "acme", Hash: management.Some("ab")}, "/algorithm", "must be stated"},
		{"md5", importer.Row{Tenant: "acme", Hash: management.Some("ab"), Algorithm: management.Some("md5")}, "/hash", "sha512"},
		{"prefix of no shape", func() importer.Row {
			r := hashedRow(t, "acme", oldKey(1), "sha256")
			r.Prefix = management.Some("zz_")
			return r
		}(), "/prefix", "accept legacy"},
		{"bcrypt without random characters", func() importer.Row {
			r := hashedRow(t, "acme", oldKey(1), "bcrypt")
			r.Prefix = management.Some("old_012")
			return r
		}(), "/hash", "at least 4"},
		{"scope beyond the plan", row(1, func(r *importer.Row) { r.Fields.Scopes = management.Some([]string{"admin"}) }), "/scopes/0", "does not allow"},
		{"environment", row(1, func(r *importer.Row) { r.Fields.Environment = management.Some("prod") }), "/environment", "live, test"},
		{"created in the future", row(1, func(r *importer.Row) { r.CreatedAt = management.Some(time.Now().Add(time.Hour)) }), "/created_at", "past"},
		{"limit", row(1, func(r *importer.Row) { r.Fields.Rate = management.Some("fast") }), "/rate", ""},
		{"another's key", plainRow("acme", oldKey(900)), "", "not for this tenant"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := w.importRows(tc.row)
			if r.Rejected != 1 {
				t.Fatalf("%+v", r)
			}
			got := r.Data[0]
			text := got.Detail
			for _, f := range got.Errors {
				text += " " + f.Pointer + " " + f.Detail
			}
			if !strings.Contains(text, tc.pointer+" ") && tc.pointer != "" || !strings.Contains(text, tc.detail) {
				t.Errorf("%q, want %s %q", text, tc.pointer, tc.detail)
			}
			for _, secret := range []string{oldKey(1), oldKey(900), tc.row.Hash.Value} {
				if len(secret) > 10 && strings.Contains(text, secret) {
					t.Errorf("the error holds the secret: %q", text)
				}
			}
		})
	}
	// The plan allows three active keys, so two of five are rejected. Inactive keys don't count.
	r := w.importRows(
		row(1, func(r *importer.Row) { r.Disabled = management.Some(true) }),
		row(2, func(r *importer.Row) { r.Revoked = management.Some(true) }),
		row(3, func(r *importer.Row) { r.Fields.ExpiresAt = management.Some(past) }),
		row(4, func(r *importer.Row) { r.CreatedAt = management.Some(past) }),
		plainRow("acme", oldKey(5)), plainRow("ACME", oldKey(6)), plainRow("acme", oldKey(7)), plainRow("acme", oldKey(8)),
		plainRow("acme", oldKey(5)))
	if r.Created != 6 || r.Rejected != 2 || r.Unchanged != 1 || r.Data[7].Code != management.CodeKeyLimitReached {
		t.Errorf("%+v", r)
	}
	for i, want := range []gateway.Reason{gateway.DisabledKey, gateway.RevokedKey, gateway.ExpiredKey, gateway.Allowed, gateway.Allowed, gateway.Allowed, gateway.InvalidKey} {
		w.wantReason(oldKey(i+1), want)
	}
	w.wantIntact(2 + 1 + 6)
	k := testkit.Must[management.KeyRecord](t)(w.Key(ctx, ada, "", *r.Data[3].ID))
	if !k.CreatedAt.Equal(past.UTC().Truncate(time.Microsecond)) || k.Name != "imported" || k.KeyPrefix != "old_000" || k.LastFour != "" {
		t.Errorf("record %+v", k)
	}
	_, err := importer.Import(ctx, w.Manager, ada, "", make([]importer.Row, importer.MaxRows+1), importer.Options{})
	wantError(t, err, http.StatusUnprocessableEntity, management.CodeInvalidField, "/keys")
}

func TestImportCreatesTenants(t *testing.T) {
	w := newFixture(t)
	w.accepting()
	w.tenant("gone", "free")
	if err := w.DeleteTenant(ctx, ada, "", "gone", false, nil); err != nil {
		t.Fatal(err)
	}
	r := testkit.Must[importer.Report](t)(importer.Import(ctx, w.Manager, ada, "", []importer.Row{
		plainRow("a", oldKey(1)), plainRow("gone", oldKey(2)), plainRow("not/a/slug", oldKey(3)), plainRow("b", oldKey(4)),
		plainRow("A", oldKey(5)), plainRow("c", "no shape"),
	}, importer.Options{CreateTenants: true}))
	if r.Created != 3 || r.Rejected != 3 || r.TenantsCreated != 2 {
		t.Errorf("%+v", r)
	}
	for _, i := range []int{1, 4, 5} {
		w.wantReason(oldKey(i), gateway.Allowed)
	}
	if _, err := w.Tenant(ctx, ada, "", "c"); err == nil {
		t.Error("a rejected row created a tenant")
	}
	w.wantIntact(2 + 2 + 3)
	_, err := importer.Import(ctx, w.Manager, management.Actor{Name: "eve", Tenant: "a"}, "", []importer.Row{plainRow("b", oldKey(9))}, importer.Options{CreateTenants: true})
	wantError(t, err, http.StatusForbidden, management.CodeInsufficientScope)
	r = testkit.Must[importer.Report](t)(importer.Import(ctx, w.Manager, management.Actor{Name: "eve", Tenant: "a"}, "", []importer.Row{plainRow("b", oldKey(9))}, importer.Options{}))
	if r.Rejected != 1 {
		t.Errorf("another tenant's: %+v", r)
	}
}

// TestImportBcryptAlike proves that an import rejects a bcrypt key if too many others begin alike,
// since comparing all of them would take too long.
func TestImportBcryptAlike(t *testing.T) {
	w := newFixture(t)
	w.accepting()
	w.tenant("acme", "business")
	var rows []importer.Row
	for i := range gateway.MaxPerHint + 1 {
		rows = append(rows, hashedRow(t, "acme", fmt.Sprintf("old_0000aaaa%012d", i), "bcrypt"))
	}
	r := w.importRows(rows...)
	if r.Created != gateway.MaxPerHint || r.Rejected != 1 {
		t.Errorf("%+v", r)
	}
	w.wantReason(fmt.Sprintf("old_0000aaaa%012d", gateway.MaxPerHint-1), gateway.Allowed)
	w.wantReason("old_0000aaaa999999999999", gateway.InvalidKey)
}

func BenchmarkImport(b *testing.B) {
	for _, algorithm := range []string{"sha256", "sha512"} {
		b.Run(algorithm, func(b *testing.B) {
			w := newFixture(b)
			w.accepting()
			for i := range 100 {
				w.tenant(fmt.Sprintf("t%d", i), "business")
			}
			b.ReportAllocs()
			rows := make([]importer.Row, 0, importer.MaxRows)
			n := 0
			for b.Loop() {
				b.StopTimer()
				rows = rows[:0]
				for range importer.MaxRows {
					key := fmt.Sprintf("old_%020d", n)
					rows = append(rows, hashedRow(b, fmt.Sprintf("t%d", n%100), key, algorithm))
					n++
				}
				b.StartTimer()
				w.importRows(rows...)
			}
			b.ReportMetric(float64(b.Elapsed())/float64(n), "ns/row")
		})
	}
}
