package apikey

import (
	"strings"
	"testing"
)

// githubTokens are sample tokens of GitHub, long revoked, published with
// therootcompany/base62-token.js. They stand here without their prefix, on which the checksum does
// not depend.
var githubTokens = []string{
	"zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ" + "0mLq17",
	"adE7dp8rHP6gUTuPwxLTZjZdtya3sV" + "0UQzQM",
	"H3xbiBdlzffNx7Y56iNsPw3joObj7U" + "2nO29h",
}

func TestChecksum(t *testing.T) {
	for random, want := range map[string]string{
		"":                           "000000",
		"123456789":                  "3jZRME", // The checksum is the check value of CRC-32 for the text "123456789", cbf43926 in hexadecimal.
		"00000000000000000000000000": "3vSKjy",
	} {
		if got := checksum(random); string(got[:]) != want {
			t.Errorf("checksum(%q) = %s, want %s", random, got, want)
		}
	}
	for _, token := range githubTokens {
		if !hasChecksum(token) {
			t.Errorf("%s…: the checksum is not GitHub's", token[:8])
		}
		for i := range len(token) {
			other := byte('x')
			if token[i] == other {
				other = 'y'
			}
			if hasChecksum(token[:i] + string(other) + token[i+1:]) {
				t.Errorf("%s…: character %d can be mistyped", token[:8], i)
			}
		}
	}
	if hasChecksum("00000") {
		t.Error("five characters hold a checksum of six")
	}
}

func TestGenerate(t *testing.T) {
	for _, f := range []Format{{}, {32, NoChecksum}, {28, CRC32}, {64, CRC32}, {255, CRC32}, {255, NoChecksum}} {
		g := newGrammar(t, []Prefix{{"knouds_live_", "live"}, {"knouds_test_", "test"}}, f, nil)
		seen := map[string]bool{}
		for range 200 {
			for env, prefix := range map[string]string{"": "knouds_live_", "live": "knouds_live_", "test": "knouds_test_"} {
				key, err := g.Generate(env)
				if err != nil {
					t.Fatal(err)
				}
				s := g.Match(key)
				if s == nil || s.Prefix != prefix || !s.Issued {
					t.Fatalf("Generate(%q) = %q, of shape %+v", env, key, s)
				}
				if seen[key] {
					t.Fatalf("the same key twice: %q", key)
				}
				seen[key] = true
			}
		}
	}
}

// digit maps four bytes to each base62 character, and none to any other character.
func TestDigitIsFair(t *testing.T) {
	count := map[byte]int{}
	for b := range 256 {
		if c, ok := digit(byte(b)); ok {
			count[c]++
		}
	}
	if len(count) != 62 {
		t.Errorf("%d characters", len(count))
	}
	for c, n := range count {
		if n != 4 || strings.IndexByte(base62, c) < 0 {
			t.Errorf("%q is made by %d bytes", c, n)
		}
	}
}

// Generate draws all base62 characters equally often, at each position and in all. The test is
// chi-square: with 61 degrees of freedom a value above 160 has a probability under 1e-10.
func TestGenerateIsUniform(t *testing.T) {
	g := newGrammar(t, nil, Format{Length: 32, Checksum: NoChecksum}, nil)
	const keys = 8000
	var counts [32][256]int
	for range keys {
		key := newKey(t, g)[len("kg_live_"):]
		for i := range len(key) {
			counts[i][key[i]]++
		}
	}
	chi := func(n float64, count func(c byte) int) (x float64) {
		for i := range len(base62) {
			d := float64(count(base62[i])) - n/62
			x += d * d / (n / 62)
		}
		return x
	}
	for i := range counts {
		if x := chi(keys, func(c byte) int { return counts[i][c] }); x > 160 {
			t.Errorf("position %d: chi-square %.1f", i, x)
		}
	}
	all := func(c byte) (n int) {
		for i := range counts {
			n += counts[i][c]
		}
		return n
	}
	if x := chi(keys*32, all); x > 160 {
		t.Errorf("all positions: chi-square %.1f", x)
	}
}
