package apikey

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// fuzzRequest builds a request. Line breaks in authorization, header and cookies separate several
// values of that header.
func fuzzRequest(authorization, header, query, cookies string) (http.Header, *url.URL) {
	h := http.Header{"X-Other": {"kept"}}
	for _, v := range strings.Split(authorization, "\n") {
		h.Add("Authorization", v)
	}
	for _, v := range strings.Split(header, "\n") {
		h.Add("X-Api-Key", v)
	}
	for _, v := range strings.Split(cookies, "\n") {
		h.Add("Cookie", v)
	}
	return h, &url.URL{Path: "/", RawQuery: query}
}

func FuzzFind(f *testing.F) {
	enc := percentEncode(keyA, false, all)
	f.Add("Bearer "+keyA, keyA, "api_key="+keyA, "key="+keyA, false)
	f.Add("Bearer eyJ.x", keyA, "a=b&api_key="+enc+"&c", "a=b; key=\""+keyB+"\"; c", false)
	f.Add("bearer\t"+keyA+"\nBasic dTpw", "", "%61pi_key=+"+keyA, ";;key=;key", true)
	f.Add("Bearer "+keyA+", Bearer "+keyB, "a,b", "api_key=%zz&api_key", "key=\"", true)
	f.Add("Bearer \x00\xff", "\r\né", "&&&=&;", "=; ;==", false)
	f.Add(strings.Repeat("Bearer ", 300), strings.Repeat("a", 16<<10), "api_key="+strings.Repeat("%61", 3000), "key="+strings.Repeat("b", 5000), true)
	g, p := testGrammar(f), everywhere(f)
	f.Fuzz(func(t *testing.T, authorization, header, query, cookies string, prefixedOnly bool) {
		h, u := fuzzRequest(authorization, header, query, cookies)
		value, err := p.Find(h, u, g, prefixedOnly)
		switch err {
		case nil:
			if value == "" || len(value) > g.longest || strings.Contains(value, ",") {
				t.Errorf("found %q", value)
			}
			if prefixedOnly && !g.Prefixed(value) {
				t.Errorf("found %q on a public route", value)
			}
		case ErrMissing, ErrMalformed, ErrAmbiguous:
			if value != "" {
				t.Errorf("found %q together with the error %v", value, err)
			}
		default:
			t.Errorf("unexpected error: %v", err)
		}
		if err == ErrMissing {
			before := u.RawQuery
			p.Empty(h, u, g, prefixedOnly)
			if u.RawQuery != before || strings.Join(h["Cookie"], "\n") != cookies || strings.Join(h["X-Api-Key"], "\n") != header || strings.Join(h["Authorization"], "\n") != authorization {
				t.Error("Empty changed a request without a credential")
			}
			return
		}
		p.Empty(h, u, g, prefixedOnly)
		if h.Get("X-Other") != "kept" {
			t.Error("another header was removed")
		}
		// Empty leaves no value with a prefix in any place.
		if v, err := p.Find(h, u, g, true); err != ErrMissing {
			t.Errorf("after Empty a public route still finds %q, %v", v, err)
		}
		// On a route that needs a key, Empty leaves no credential except an Authorization value that belongs to the user.
		if !prefixedOnly {
			h2 := h.Clone()
			h2.Del("Authorization")
			if v, err := p.Find(h2, u, g, false); err != ErrMissing {
				t.Errorf("after Empty there is still %q, %v", v, err)
			}
		}
		// A second Empty, for a public route, changes nothing.
		h2, u2 := h.Clone(), *u
		p.Empty(h2, &u2, g, true)
		if u2.RawQuery != u.RawQuery || strings.Join(h2["Cookie"], "\n") != strings.Join(h["Cookie"], "\n") || len(h2) != len(h) {
			t.Error("Empty is not idempotent")
		}
	})
}

func FuzzMatch(f *testing.F) {
	for _, s := range []string{"", keyA, keyB, keyL, keyA[:39], keyA + "0", "SG.aaaaaaaaaaaaaaaaaaaaaaaaaa", "old_", strings.Repeat("a", 600), "sk_live_\x00\xff"} {
		f.Add(s)
	}
	g := testGrammar(f)
	hasher := newHasher(f, pepper1)
	f.Fuzz(func(t *testing.T, key string) {
		s := g.Match(key)
		prefix, last := g.Shown(key)
		if s == nil {
			if prefix != "" || last != "" {
				t.Errorf("%q has no shape, yet shows %q and %q", key, prefix, last)
			}
			return
		}
		if !strings.HasPrefix(key, s.Prefix) || !g.Prefixed(key) {
			t.Errorf("%q does not have the prefix %q", key, s.Prefix)
		}
		if n := len(key) - len(s.Prefix); n < s.MinLength || n > s.MaxLength {
			t.Errorf("%q does not have the length of %+v", key, s)
		}
		for i := range len(key) {
			if c := key[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(",;\"'", c) >= 0 {
				t.Errorf("%q holds %q", key, c)
			}
		}
		if !strings.HasPrefix(key, prefix) || len(prefix) > 12 || len(last) > 4 || !strings.Contains(key[len(prefix):], last) {
			t.Errorf("%q shows %q and %q", key, prefix, last)
		}
		if g.Clean(key) == key {
			t.Errorf("%q is not found in a text", key)
		}
		if c := hasher.Candidates(nil, key); c[0].Digest != hasher.Primary(key) {
			t.Error("Primary is not the first candidate")
		}
	})
}

// Clean removes a key at any position of a text and in any encoding. A second call changes
// nothing.
func FuzzClean(f *testing.F) {
	f.Add("GET /?k=", "&x=1", uint64(0), uint8(0))
	f.Add("key", "xyz", uint64(0x0404), uint8(1))
	f.Add(`{"a":"\n`, `"}`, ^uint64(0), uint8(2))
	f.Add("%3D", "%", uint64(0x5555), uint8(3))
	f.Add("sk_live_", "_sk_live_", uint64(0), uint8(1))
	f.Add("sk_live_aaaaaaaaa", "old_", uint64(1), uint8(0))
	f.Add("SG.", "\x00\xff", uint64(3), uint8(2))
	f.Add("%25", "%2", uint64(7), uint8(1))
	g := testGrammar(f)
	const body = "7kX9mP2nQ4rT6vW8yB0cD3fG5hJkLm1N"
	f.Fuzz(func(t *testing.T, before, after string, mask uint64, layers uint8) {
		key := "sk_live_" + body
		for range layers % 4 {
			key = percentEncode(key, mask&1 == 0, func(i int) bool {
				if strings.IndexByte(key, '%') >= 0 {
					return key[i] == '%'
				}
				return mask>>(i%64)&1 == 1
			})
		}
		text := before + key + after
		got := g.Clean(text)
		// A reader who sees the key without these fifteen characters can't use the key.
		if plain := unescape(got); strings.Contains(plain, body[5:20]) && !strings.Contains(unescape(before+after), body[5:20]) {
			t.Errorf("Clean(%q) = %q", text, got)
		}
		if all, _ := g.cleaner.scan(text, false); got != all {
			t.Errorf("Clean(%q) = %q, without the quick test %q", text, got, all)
		}
		if again := g.Clean(got); again != got {
			t.Errorf("cleaned again: %q, then %q", got, again)
		}
		// Clean leaves a text alone that holds neither a prefix nor an escape.
		if rest := before + after; !strings.ContainsAny(rest, `%\`) && !mayHold(g, rest) && g.Clean(rest) != rest {
			t.Errorf("Clean(%q) = %q", rest, g.Clean(rest))
		}
	})
}

// unescape decodes s until nothing changes any more.
func unescape(s string) string {
	for range 6 {
		var b strings.Builder
		for i := 0; i < len(s); {
			var c byte
			c, i = read(s, i)
			b.WriteByte(c)
		}
		if b.String() == s {
			break
		}
		s = b.String()
	}
	return s
}

func mayHold(g *Grammar, s string) bool {
	for _, p := range g.prefixes {
		if strings.Contains(s, p) {
			return true
		}
	}
	return false
}

// FuzzParse checks queries and cookies. If net/url and net/http can read one, this package must read the same values. If
// they can't, this package must not panic.
func FuzzParse(f *testing.F) {
	f.Add("api_key=a&b=c", "key=a; b=c")
	f.Add("%61pi_key=%41+b&api_key=2", `key="a b"; key=c`)
	f.Add("api_key;=1&api_key=1;2", "key=a;key =b; =c")
	f.Add("api_key=%zz&&api_key=%4&api_key", "key; key=; \tkey=\"\"\t;")
	f.Add("api_key=a=b%3Dc", `key="`)
	const longest = 64
	f.Fuzz(func(t *testing.T, query, line string) {
		var got []string
		for rest := query; rest != ""; {
			var param string
			param, rest = nextPart(rest, '&')
			if v := (queryPlace{}).value(param, "api_key", longest); v != "" {
				got = append(got, v)
			}
		}
		// This package finds every value that net/url finds, and otherwise only values that
		// net/url drops.
		values, err := url.ParseQuery(query)
		if !contains(got, nonEmpty(values["api_key"]), longest) {
			t.Errorf("query %q: %q, net/url has %q", query, got, values["api_key"])
		}
		if err == nil && len(got) != len(nonEmpty(values["api_key"])) {
			t.Errorf("query %q: %q, net/url has only %q", query, got, values["api_key"])
		}

		got = nil
		for rest := line; rest != ""; {
			var pair string
			pair, rest = nextPart(rest, ';')
			if v := (cookiePlace{}).value(pair, "key", longest); v != "" {
				got = append(got, v)
			}
		}
		// net/http also trims line breaks, which no header of a real request holds.
		if strings.ContainsAny(line, "\r\n") {
			return
		}
		var want []string
		for _, c := range (&http.Request{Header: http.Header{"Cookie": {line}}}).CookiesNamed("key") {
			want = append(want, c.Value)
		}
		if !contains(got, nonEmpty(want), len(line)) {
			t.Errorf("cookies %q: %q, net/http has %q", line, got, want)
		}
	})
}

func nonEmpty(s []string) (out []string) {
	for _, v := range s {
		if v != "" {
			out = append(out, v)
		}
	}
	return out
}

// contains reports whether want is a subsequence of got. Of values that are longer than longest, only the first longest
// bytes are compared.
func contains(got, want []string, longest int) bool {
	for _, w := range want {
		i := 0
		for i < len(got) && got[i] != w && !(len(got[i]) > longest && strings.HasPrefix(w, got[i])) {
			i++
		}
		if i == len(got) {
			return false
		}
		got = got[i+1:]
	}
	return true
}
