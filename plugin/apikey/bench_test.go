package apikey

import (
	"strings"
	"testing"
)

func BenchmarkPrimary(b *testing.B) {
	key := newKey(b, testGrammar(b))
	for name, h := range map[string]*Hasher{"sha256": newHasher(b), "hmac": newHasher(b, pepper1)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				h.Primary(key)
			}
		})
	}
}

func BenchmarkMatch(b *testing.B) {
	g := testGrammar(b)
	for name, key := range map[string]string{
		"issued": keyA, "typo": keyA[:len(keyA)-1] + "z", "accepted": keyL, "rubbish": "hunter2", "16KiB": strings.Repeat("a", 16<<10),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				g.Match(key)
			}
		})
	}
}

func BenchmarkFind(b *testing.B) {
	g := testGrammar(b)
	for name, tc := range map[string]struct {
		p     *Places
		lines []string
	}{
		"bearer":     {newPlaces(b), []string{"Authorization: Bearer " + keyA}},
		"header":     {newPlaces(b), []string{"X-Api-Key: " + keyA}},
		"own":        {newPlaces(b), []string{"Authorization: Bearer own", "X-Api-Key: " + keyA}},
		"missing":    {newPlaces(b), nil},
		"everywhere": {everywhere(b), []string{"?a=b&c=d&api_key=" + keyA, "Cookie: a=b; c=d; e=f"}},
	} {
		r := newRequest(tc.lines...)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				tc.p.Find(r.h, r.u, g, false)
			}
		})
	}
}

func BenchmarkEmpty(b *testing.B) {
	g, p := testGrammar(b), newPlaces(b)
	r := newRequest()
	value := []string{"Bearer " + keyA}
	b.ReportAllocs()
	for b.Loop() {
		r.h["Authorization"] = value
		p.Empty(r.h, r.u, g, false)
	}
}

func BenchmarkClean(b *testing.B) {
	g := testGrammar(b)
	for name, s := range map[string]string{
		"nothing": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
		"escapes": "/search?q=%E6%97%A5%E6%9C%AC%E8%AA%9E%20%2F%20a&next=%2Faccount%2Fsettings",
		"key":     "/v1/jobs?api_key=" + keyA + "&page=2",
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				g.Clean(s)
			}
		})
	}
}

func BenchmarkGenerate(b *testing.B) {
	g := testGrammar(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := g.Generate("live"); err != nil {
			b.Fatal(err)
		}
	}
}
