package apikey

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
)

// percentEncode writes each byte of s for which which returns true as %xx.
func percentEncode(s string, upper bool, which func(i int) bool) string {
	format := "%%%02x"
	if upper {
		format = "%%%02X"
	}
	var b strings.Builder
	for i := range len(s) {
		if which(i) {
			fmt.Fprintf(&b, format, s[i])
		} else {
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

func all(int) bool { return true }

func TestClean(t *testing.T) {
	g := testGrammar(t)
	const body = "7kX9mP2nQ4rT6vW8yB0cD3fG5hJkLm1N"
	const key = "sk_live_" + body
	const shown = "sk_live_7kX9…"
	encoded := percentEncode(key, true, all)
	marks := percentEncode(key, true, func(i int) bool { return key[i] == '_' })
	for name, tc := range map[string]struct{ in, want string }{
		"alone":                    {key, shown},
		"Bearer":                   {"Bearer " + key, "Bearer " + shown},
		"in a path":                {"/v1/" + key + "/x", "/v1/" + shown + "/x"},
		"in a query":               {"/v1?api_key=" + key + "&x=1", "/v1?api_key=" + shown + "&x=1"},
		"in JSON":                  {`{"key":"` + key + `"}`, `{"key":"` + shown + `"}`},
		"after JSON's newline":     {`"line\n` + key + `"`, `"line\n` + shown + `"`},
		"two":                      {key + "," + key, shown + "," + shown},
		"after letters":            {"key" + key, "key" + shown},
		"longer than the shape":    {key + strings.Repeat("x", 100) + " end", shown + " end"},
		"shorter":                  {"a=sk_live_7kX9mP2nQ4rT b", "a=" + shown + " b"},
		"eight characters":         {"sk_live_7kX9mP2n", shown},
		"seven characters":         {"sk_live_7kX9mP2", "sk_live_7kX9mP2"},
		"a key_prefix":             {"sk_live_7kX9", "sk_live_7kX9"},
		"cleaned before":           {shown, shown},
		"truncated, after JSON":    {`\nsk_live_abcdefghijkl`, `\nsk_live_abcd…`},
		"truncated, after %3D":     {`%3Dsk_live_abcdefghijkl`, `%3Dsk_live_abcd…`},
		"truncated, after \\u003d": {`\u003dsk_live_abcdefghijkl`, `\u003dsk_live_abcd…`},
		"a word":                   {"/risk_live_availability", "/risk_live_availability"},
		"not a word":               {"/sk_live_availability", "/sk_live_avai…"},
		"word as long as a key":    {"/risk_live_" + strings.Repeat("a", 32), "/risk_live_aaaa…"},
		"%5F":                      {"?k=" + marks + "&x=%5F", "?k=" + shown + "&x=%5F"},
		"%5f":                      {strings.ToLower("?K=sk%5Flive%5F") + body, "?k=" + shown},
		"every byte":               {"/" + encoded + "/", "/" + shown + "/"},
		"every byte, lower case":   {"/" + percentEncode(key, false, all) + "/", "/" + shown + "/"},
		"every other byte":         {percentEncode(key, true, func(i int) bool { return i%2 == 1 }), shown},
		"double encoding":          {"/?u=" + percentEncode(marks, true, func(i int) bool { return marks[i] == '%' }), "/?u=" + shown},
		"double, all":              {percentEncode(encoded, true, all), shown},
		"triple encoding":          {"sk%25255Flive%25255f" + body, shown},
		"JSON escapes":             {`sk\u005flive\u005F` + body, shown},
		"JSON's escaped percent":   {`sk\u00255flive\u00255F` + body, shown},
		"broken escapes":           {"%%%2" + key + "%", "%%%2" + shown + "%"},
		"prefix in a prefix":       {"sk_live_sk_live_" + body, "sk_live_" + shown},
		"key in a key":             {"sk_live_AAAAAAAAAAsk_live_" + body + ";", "sk_live_AAAA…;"},
		"other environment":        {"sk_test_" + body, "sk_test_7kX9…"},
		"hex":                      {"old_" + strings.Repeat("0a", 12), "old_…"},
		"mistyped hex":             {"old_" + strings.Repeat("0a", 12) + "zzzz", "old_…"},
		"any":                      {`"SG.aa-._~/+==aa-._~/+==bb", 1`, `"SG.…", 1`},
		"any, with a percent":      {`SG.%2C%22aaaaaaaaaaaaaaaaaaa x`, `SG.… x`},
		"of the longer shape":      {"sk_live_" + strings.Repeat("q", 44), "sk_live_qqqq…"},
		"unknown prefix":           {"pk_live_" + body, "pk_live_" + body},
		"upper case":               {"SK_LIVE_" + body, "SK_LIVE_" + body},
		"NUL":                      {"\x00" + key + "\x00", "\x00" + shown + "\x00"},
		"UTF-8":                    {"é" + key + "é", "é" + shown + "é"},
		"empty":                    {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := g.Clean(tc.in)
			if got != tc.want {
				t.Errorf("Clean(%q)\n = %q\nwant %q", tc.in, got, tc.want)
			}
			if again := g.Clean(got); again != got {
				t.Errorf("cleaned again: %q, then %q", got, again)
			}
		})
	}
}

// Of a key in a text, Clean shows exactly the key_prefix of the key's record.
func TestCleanShowsKeyPrefix(t *testing.T) {
	for _, g := range []*Grammar{
		testGrammar(t),
		newGrammar(t, []Prefix{{"ck_", "live"}}, Format{Length: 36}, nil),
		newGrammar(t, []Prefix{{"a_prefix_of_its_own_", "live"}}, Format{}, nil),
		newGrammar(t, []Prefix{{"sk_live_", "live"}}, Format{},
			[]Accept{{Name: "hex", Prefix: "sk_live_", MinLength: 24, MaxLength: 64, Charset: Hex}}),
	} {
		for range 50 {
			key := newKey(t, g)
			prefix, _ := g.Shown(key)
			for _, in := range []string{key, percentEncode(key, false, all)} {
				if got := g.Clean("<" + in + ">"); got != "<"+prefix+"…>" {
					t.Errorf("Clean(%q) = %q, want key_prefix %q", in, got, prefix)
				}
			}
		}
	}
}

// Clean hides a key in texts that Go's JSON, URL and fmt packages have encoded.
func TestCleanEncoded(t *testing.T) {
	g := testGrammar(t)
	key := newKey(t, g)
	j, err := json.Marshal(map[string]string{"error": "dial \"x?k=" + key + "&y\"\n" + key})
	if err != nil {
		t.Fatal(err)
	}
	inner := url.URL{Scheme: "https", Host: "a.example", Path: "/" + key, RawQuery: url.Values{"k": {key}}.Encode()}
	outer := url.URL{Scheme: "https", Host: "b.example", Path: "/", RawQuery: url.Values{"r": {inner.String()}}.Encode()}
	for _, text := range []string{
		string(j), inner.String(), outer.String(), url.QueryEscape(outer.String()),
		fmt.Sprintf("%q", key), fmt.Errorf("dial: %w", &url.Error{Op: "Get", URL: outer.String(), Err: fmt.Errorf("key %s", key)}).Error(),
	} {
		got := g.Clean(text)
		if strings.Contains(got, key[14:]) || !strings.Contains(got, ellipsis) {
			t.Errorf("Clean(%q) = %q", text, got)
		}
	}
}

func TestCleanNothing(t *testing.T) {
	g := newGrammar(t, []Prefix{{"ck_", "live"}}, Format{Length: 40}, nil)
	for _, s := range []string{
		"GET /v1/check_availability?a=%5F&b=100%", "Mozilla/5.0 (X11; Linux x86_64) rock_paperscissors",
		"ck_", "ck_12345678", "ck_short", `\u00`, "%", "%4", "%25", "%2525", `\`, "ck_%", `ck_\u00`, "ck_1234567%2",
	} {
		if got := g.Clean(s); got != s {
			t.Errorf("Clean(%q) = %q", s, got)
		}
		if n := testing.AllocsPerRun(100, func() { g.Clean(s) }); n != 0 {
			t.Errorf("Clean(%q) allocates %v times", s, n)
		}
	}
}

// Clean takes linear time and at most eight steps a character, even for texts of nothing but
// prefixes or escapes.
func TestCleanIsLinear(t *testing.T) {
	g := newGrammar(t, []Prefix{{"ab", "live"}, {"cd_", "test"}, {"kg_live_", "kg"}}, Format{Length: 40},
		[]Accept{{Name: "x", Prefix: "xy", MinLength: 512, MaxLength: 512, Charset: AnyChar}})
	h := newGrammar(t, []Prefix{{"kg_live_", "live"}, {"ck_", "test"}}, Format{Length: 40}, nil)
	c := NewCleaner(g, h)
	for _, unit := range []string{
		"ab", "xy", "abxy", "xyab", "cd_", "ab.", "kg_live_", "kg_live_AAAAAAAA", "kg_live_AAAAAAAA,", "ck_kg_", "_",
		"xkg_live_abcdefgh", strings.Repeat("ab", 200) + "-", "ab%61", "%6bg%5flive%5f",
		"%", "%2", "%25", "%2525", "%25%", "%%%25", "%2%2%25", "%%32%35", "%6b", "%u006b", `\`, `\u00`, `\u0025`, `\u006b`,
	} {
		for _, words := range []bool{false, true} {
			short := strings.Repeat(unit, (1<<14)/len(unit))
			long := strings.Repeat(short, 4)
			out, steps := c.scan(long, words)
			if len(out) > len(long)+len(long)/2 {
				t.Errorf("%s: %d characters of %d", unit, len(out), len(long))
			}
			if _, few := c.scan(short, words); steps > 4*few+100 {
				t.Errorf("%s, words %v: %d steps, and %d for four times the text", unit, words, few, steps)
			}
			if steps > 8*len(long) {
				t.Errorf("%s, words %v: %d steps for %d characters", unit, words, steps, len(long))
			}
		}
	}
}

// A Cleaner of several grammars replaces in one pass every key that one pass per grammar would
// replace.
func TestCleanerOfSeveral(t *testing.T) {
	live, short := newGrammar(t, nil, Format{}, nil), newGrammar(t, []Prefix{{"ck_", "live"}}, Format{Length: 40}, nil)
	c := NewCleaner(live, nil, short, live)
	if d := c.With(NewCleaner(short)); d != c {
		t.Error("With makes another Cleaner of the same grammars")
	}
	a, b := newKey(t, live), newKey(t, short)
	in := a + " and " + percentEncode(b, true, all) + " and sk_live_ABCDEFGHIJKLMNOP"
	want := a[:12] + "… and " + b[:12] + "… and sk_live_ABCDEFGHIJKLMNOP"
	if got := c.Clean(in); got != want || got != short.Clean(live.Clean(in)) {
		t.Errorf("%q is %q, want %q", in, got, want)
	}
	if got := NewCleaner().Clean(in); got != in {
		t.Errorf("without a grammar %q is %q", in, got)
	}
	if got := NewCleaner(live).With(NewCleaner(short)).Clean(in); got != want {
		t.Errorf("%q is %q, want %q", in, got, want)
	}
}

// Clean does not allocate for a text without a key, however many escapes and prefixes it holds.
func TestCleanAllocatesNothingForHostileText(t *testing.T) {
	c := NewCleaner(newGrammar(t, nil, Format{}, nil), newGrammar(t, []Prefix{{"ck_", "live"}}, Format{Length: 40}, nil))
	for _, unit := range []string{"%", "%25", "%2%2%25", "_", "kg_live_", "%6b", `\u0025`} {
		s := strings.Repeat(unit, 500)
		if n := testing.AllocsPerRun(10, func() { c.Clean(s) }); n != 0 {
			t.Errorf("%s: %v allocations", unit, n)
		}
	}
}
