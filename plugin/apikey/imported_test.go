package apikey

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"slices"
	"strings"
	"testing"
)

// Every hash of a key that can be imported, in hexadecimal or base64, is among the candidates that
// are looked up for the key.
func TestImportedIsFound(t *testing.T) {
	const key, importPepper = "old_0123456789abcdef", "their pepper"
	h, err := newHasher(t, pepper1).WithImportPeppers(importPepper)
	if err != nil {
		t.Fatal(err)
	}
	s256, s512 := sha256.Sum256([]byte(key)), sha512.Sum512([]byte(key))
	mac := hmac.New(sha256.New, []byte(importPepper))
	mac.Write([]byte(key))
	own := hmac.New(sha256.New, []byte(pepper1))
	own.Write([]byte(key))
	for _, tc := range []struct {
		algorithm, pepper string
		sum               []byte
	}{
		{"sha256", "", s256[:]}, {"sha512", "", s512[:]},
		{"hmac-sha256", "", mac.Sum(nil)}, {"hmac-sha256", PepperID(importPepper), mac.Sum(nil)},
		{"hmac-sha256", PepperID(pepper1), own.Sum(nil)},
	} {
		for _, text := range []string{
			hex.EncodeToString(tc.sum), strings.ToUpper(hex.EncodeToString(tc.sum)),
			base64.StdEncoding.EncodeToString(tc.sum), base64.RawURLEncoding.EncodeToString(tc.sum), base64.URLEncoding.EncodeToString(tc.sum),
		} {
			c, err := h.Imported(tc.algorithm, text, tc.pepper)
			if err != nil {
				t.Errorf("%s %s: %v", tc.algorithm, text, err)
			} else if !slices.Contains(h.Candidates(nil, key), c) {
				t.Errorf("%s %s is not found", tc.algorithm, text)
			}
		}
	}
}

// The first candidate is the form of newly issued keys, even with import peppers.
func TestImportPeppersAreNeverPrimary(t *testing.T) {
	for _, own := range [][]string{nil, {pepper1}} {
		h, err := newHasher(t, own...).WithImportPeppers("theirs")
		if err != nil {
			t.Fatal(err)
		}
		if c := h.Candidates(nil, "k")[0]; c.Digest != h.Primary("k") || c.Algorithm != h.PrimaryAlgorithm() {
			t.Errorf("%d peppers: the first candidate is %s", len(own), c.Algorithm)
		}
	}
}

func TestImportedRejects(t *testing.T) {
	sum := sha256.Sum256([]byte("k"))
	good := hex.EncodeToString(sum[:])
	none, two := newHasher(t), newHasher(t, pepper1, pepper2)
	for _, tc := range []struct {
		name                    string
		h                       *Hasher
		algorithm, hash, pepper string
		want                    string
	}{
		{"unknown algorithm", none, "md5", good, "", "the algorithm is"},
		{"short", none, "sha256", good[:62], "", "not 32 bytes"},
		{"no hex", none, "sha256", "x" + good[1:], "", "not 32 bytes"},
		{"empty", none, "sha512", "", "", "not 64 bytes"},
		{"sha256 as sha512", none, "sha512", good, "", "not 64 bytes"},
		{"no pepper", none, "hmac-sha256", good, "", "no pepper is configured"},
		{"unknown pepper", two, "hmac-sha256", good, "deadbeef", "not configured"},
		{"one of two", two, "hmac-sha256", good, "", "several peppers"},
		{"pepper of sha256", two, "sha256", good, "deadbeef", "belongs to hmac-sha256"},
	} {
		_, err := tc.h.Imported(tc.algorithm, tc.hash, tc.pepper)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		} else if tc.hash != "" && strings.Contains(err.Error(), tc.hash) {
			t.Errorf("%s: the error holds the hash", tc.name)
		}
	}
	for _, peppers := range [][]string{{""}, {pepper1}, {"x", "x"}} {
		if _, err := two.WithImportPeppers(peppers...); err == nil {
			t.Errorf("WithImportPeppers(%q) is no error", peppers)
		}
	}
}

const someBcrypt = "$2b$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy"

func TestBcryptHint(t *testing.T) {
	g, err := NewGrammar([]Prefix{{"sk_live_", "live"}}, Format{}, []Accept{
		{Name: "old", Prefix: "old_", MinLength: 20, MaxLength: 64, Charset: Hex},
		{Name: "long", Prefix: "long_", MinLength: 100, MaxLength: 200},
	})
	if err != nil {
		t.Fatal(err)
	}
	const key = "old_0123456789abcdef0123"
	for _, n := range []int{8, 9, 11, 12, 20} {
		c, hint, err := g.Bcrypt(someBcrypt, key[:n])
		if err != nil {
			t.Errorf("%d characters: %v", n, err)
			continue
		}
		if hash, ok := c.Algorithm.Bcrypt(); !ok || hash != someBcrypt || c.Algorithm.Name() != "bcrypt" {
			t.Errorf("algorithm %q", c.Algorithm)
		}
		if string(c.Digest[:16]) != string(hint[:]) || !slices.Contains(g.Hints(nil, key), hint) {
			t.Errorf("%d characters: the hints of the key do not find its hash", n)
		}
		if slices.Contains(g.Hints(nil, "old_1123456789abcdef0123"), hint) {
			t.Errorf("%d characters: another key has the same hint", n)
		}
	}
	if hints := g.Hints(nil, "old_"+strings.Repeat("0", 69)); len(hints) != 0 {
		t.Error("a key longer than bcrypt hashes has hints")
	}
	for _, tc := range []struct{ name, hash, prefix string }{
		{"no prefix", someBcrypt, ""},
		{"three random characters", someBcrypt, "old_012"},
		{"unknown prefix", someBcrypt, "new_0123456789"},
		{"keys too long for bcrypt", someBcrypt, "long_0123456789"},
		{"no bcrypt", "x" + someBcrypt[1:], key},
		{"version x", "$2x" + someBcrypt[3:], key},
		{"too slow", "$2b$15" + someBcrypt[6:], key},
		{"no cost", "$2b$+1" + someBcrypt[6:], key},
		{"cut", someBcrypt[:59], key},
	} {
		if _, _, err := g.Bcrypt(tc.hash, tc.prefix); err == nil {
			t.Errorf("%s is no error", tc.name)
		}
	}
}

func TestFit(t *testing.T) {
	g, err := NewGrammar([]Prefix{{"sk_live_", "live"}}, Format{}, []Accept{
		{Name: "short", Prefix: "s_", MinLength: 8, MaxLength: 12, Charset: Hex},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ prefix, last, wantPrefix, wantLast string }{
		{"sk_live_abcd", "wxyz", "sk_live_abcd", "wxyz"},
		{"sk_live_abcdefgh", "wxyz", "sk_live_abcd", "wxyz"},
		{"s_0123", "cdef", "s_", ""}, // A key of this shape may have only 32 random bits, so none of its random characters is shown.
		{"sk_", "", "sk_", ""},
		{"", "", "", ""},
	} {
		first, last, err := g.Fit(tc.prefix, tc.last)
		if err != nil || first != tc.wantPrefix || last != tc.wantLast {
			t.Errorf("Fit(%q, %q) = %q, %q, %v", tc.prefix, tc.last, first, last, err)
		}
	}
	for _, prefix := range []string{"kg_live_", "s_xyz", "s_0123456789abc", "sk_live_-"} {
		if _, _, err := g.Fit(prefix, ""); err == nil {
			t.Errorf("Fit(%q) is no error", prefix)
		}
	}
}

func TestMarks(t *testing.T) {
	d := newHasher(t).Primary("k")
	before, after := newHasher(t, pepper1).Marks(nil, d), newHasher(t, pepper2, pepper1).Marks(nil, d)
	if len(before) != 2 || len(after) != 3 || !slices.Contains(after[1:], before[0]) || slices.Contains(before, after[0]) {
		t.Errorf("marks %x, then %x", before, after)
	}
	if d2 := newHasher(t).Primary("l"); newHasher(t).Marks(nil, d2)[0] == newHasher(t).Marks(nil, d)[0] {
		t.Error("two keys have one mark")
	}
}

// Imported, Bcrypt and Fit accept any text without a panic, and an error of Imported never holds
// the hash.
func FuzzImported(f *testing.F) {
	f.Add("sha256", strings.Repeat("ab", 32), "", "old_0123")
	f.Add("bcrypt", someBcrypt, "", "sk_live_abcd")
	f.Add("hmac-sha256", "+/"+strings.Repeat("A", 41), "deadbeef", "")
	h, err := NewHasher(pepper1)
	if err != nil {
		f.Fatal(err)
	}
	g, err := NewGrammar(nil, Format{}, []Accept{{Name: "any", MinLength: 8, MaxLength: 40, Charset: AnyChar}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, algorithm, hash, pepper, prefix string) {
		if _, err := h.Imported(algorithm, hash, pepper); err != nil && len(hash) > 20 && strings.Contains(err.Error(), hash) {
			t.Errorf("the error holds the hash: %v", err)
		}
		c, hint, err := g.Bcrypt(hash, prefix)
		if err == nil && (len(hash) != 60 || string(c.Digest[:16]) != string(hint[:])) {
			t.Errorf("%q, %q: %+v", hash, prefix, c)
		}
		first, last, err := g.Fit(prefix, pepper)
		if err == nil && (!strings.HasPrefix(prefix, first) || !strings.HasSuffix(pepper, last) || len(last) > 4) {
			t.Errorf("%q, %q show %q and %q", prefix, pepper, first, last)
		}
	})
}
