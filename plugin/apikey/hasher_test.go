package apikey

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"
)

const (
	pepper1 = "the first pepper of these tests"
	pepper2 = "the second pepper of these tests"
)

func newHasher(t testing.TB, peppers ...string) *Hasher {
	t.Helper()
	h, err := NewHasher(peppers...)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestHasherWithoutPepper(t *testing.T) {
	h := newHasher(t)
	// The expected digest is the example of FIPS 180-2, appendix B.1.
	d := h.Primary("abc")
	if got, want := hex.EncodeToString(d[:]), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"; got != want {
		t.Errorf("Primary = %s, want %s", got, want)
	}
	if a := h.PrimaryAlgorithm(); a != SHA256 {
		t.Errorf("PrimaryAlgorithm = %q", a)
	}
	c := h.Candidates(nil, "abc")
	if len(c) != 2 || c[0] != (Candidate{SHA256, d}) || c[1].Algorithm != SHA512 {
		t.Errorf("Candidates = %v", c)
	}
	if checks := h.Checks(); checks != nil {
		t.Errorf("Checks = %v, want none", checks)
	}
}

// Primary equals crypto/hmac's result for peppers and keys of any length.
func TestHasherEqualsHMAC(t *testing.T) {
	for _, n := range []int{16, 31, 32, 63, 64, 65, 127, 300} {
		secret := strings.Repeat("p", n-1) + "q"
		h := newHasher(t, secret)
		for _, k := range []int{0, 1, 40, 55, 56, 63, 64, maxKeyLength - 1, maxKeyLength, maxKeyLength + 1, 16 << 10} {
			key := strings.Repeat("k", k)
			mac := hmac.New(sha256.New, []byte(secret))
			mac.Write([]byte(key))
			if d := h.Primary(key); string(d[:]) != string(mac.Sum(nil)) {
				t.Errorf("pepper of %d bytes, key of %d: %x", n, k, d)
			}
		}
	}
}

func TestHasherCandidates(t *testing.T) {
	plain, one, two := newHasher(t), newHasher(t, pepper1), newHasher(t, pepper2)
	both := newHasher(t, pepper2, pepper1)
	const key = "sk_live_example"
	want := []Candidate{
		{two.PrimaryAlgorithm(), two.Primary(key)},
		{one.PrimaryAlgorithm(), one.Primary(key)},
		{SHA256, plain.Primary(key)},
	}
	first := Candidate{Algorithm: "kept"}
	got := both.Candidates([]Candidate{first}, key)
	if len(got) != 5 || got[0] != first || got[4].Algorithm != SHA512 {
		t.Fatalf("Candidates = %v", got)
	}
	for i, w := range want {
		if got[i+1] != w {
			t.Errorf("candidate %d = %v, want %v", i, got[i+1], w)
		}
	}
	if both.Primary(key) != want[0].Digest || both.PrimaryAlgorithm() != want[0].Algorithm {
		t.Error("the first pepper is not the primary one")
	}
	id := sha256.Sum256([]byte("keygate pepper id" + pepper1))
	if w := "hmac-sha256:" + hex.EncodeToString(id[:])[:8]; string(one.PrimaryAlgorithm()) != w {
		t.Errorf("PrimaryAlgorithm = %q, want %q", one.PrimaryAlgorithm(), w)
	}
}

func TestHasherChecks(t *testing.T) {
	checks := newHasher(t, pepper1, pepper2).Checks()
	if len(checks) != 2 {
		t.Fatalf("Checks = %v", checks)
	}
	alone := newHasher(t, pepper2)
	for id, check := range alone.Checks() {
		if checks[id] != check {
			t.Errorf("check of %s depends on the other pepper", id)
		}
		if alone.PrimaryAlgorithm() != Algorithm(hmacSHA256+id) {
			t.Errorf("check is under id %q, keys under %q", id, alone.PrimaryAlgorithm())
		}
		if len(check) != 64 {
			t.Errorf("check %q has %d characters", check, len(check))
		}
	}
	seen := map[string]bool{}
	for _, check := range checks {
		if seen[check] {
			t.Error("two peppers have one check value")
		}
		seen[check] = true
	}
}

func TestNewHasherRejects(t *testing.T) {
	for name, tc := range map[string]struct {
		peppers []string
		want    string
	}{
		"empty":        {[]string{""}, "pepper 1 is empty"},
		"second empty": {[]string{pepper1, ""}, "pepper 2 is empty"},
		"short":        {[]string{"fifteen bytes.."}, "pepper 1 has 15 bytes"},
		"twice":        {[]string{pepper1, pepper2, pepper1}, "pepper 3 is the same as pepper 1"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := NewHasher(tc.peppers...)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("error = %v, want one with %q", err, tc.want)
			}
			for _, p := range tc.peppers {
				if p != "" && strings.Contains(err.Error(), p) {
					t.Error("the error holds the pepper")
				}
			}
		})
	}
}

func TestHasherAllocatesNothing(t *testing.T) {
	key := newKey(t, testGrammar(t))
	for name, h := range map[string]*Hasher{"sha256": newHasher(t), "hmac": newHasher(t, pepper1)} {
		var d Digest
		if n := testing.AllocsPerRun(100, func() { d = h.Primary(key) }); n != 0 {
			t.Errorf("%s: Primary allocates %v times", name, n)
		}
		dst := make([]Candidate, 0, 4)
		if n := testing.AllocsPerRun(100, func() { dst = h.Candidates(dst[:0], key) }); n != 0 {
			t.Errorf("%s: Candidates allocates %v times", name, n)
		}
		if d != dst[0].Digest {
			t.Errorf("%s: Primary is not the first candidate", name)
		}
	}
}
