package apikey

import (
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
)

// testGrammar has two environments and three accepted shapes: one with its own prefix, one with an
// issued prefix, and one of any characters.
func testGrammar(t testing.TB) *Grammar {
	return newGrammar(t,
		[]Prefix{{"sk_live_", "live"}, {"sk_test_", "test"}}, Format{},
		[]Accept{
			{Name: "legacy", Prefix: "old_", MinLength: 20, MaxLength: 64, Charset: Hex},
			{Name: "moved", Prefix: "sk_live_", MinLength: 40, MaxLength: 48},
			{Name: "dotted", Prefix: "SG.", MinLength: 24, MaxLength: 66, Charset: AnyChar},
		})
}

func newGrammar(t testing.TB, prefixes []Prefix, format Format, accept []Accept) *Grammar {
	t.Helper()
	g, err := NewGrammar(prefixes, format, accept)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func newKey(t testing.TB, g *Grammar) string {
	t.Helper()
	key, err := g.Generate("")
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestMatch(t *testing.T) {
	g := testGrammar(t)
	// 26 zeros have the CRC-32 d66c01c2, in base62 3vSKjy.
	zeros := "sk_live_" + strings.Repeat("0", 26) + "3vSKjy"
	for name, tc := range map[string]struct {
		key, shape string // shape is the name of an accepted shape, or the environment of an issued shape.
	}{
		"issued":             {zeros, "live"},
		"other environment":  {"sk_test_" + zeros[8:], "test"},
		"wrong checksum":     {zeros[:39] + "z", ""},
		"swapped case":       {"sk_live_" + strings.Repeat("0", 26) + "3VSKjy", ""},
		"one short":          {zeros[:39], ""},
		"one long":           {zeros + "0", ""},
		"prefix alone":       {"sk_live_", ""},
		"empty":              {"", ""},
		"upper-case prefix":  {"SK_LIVE_" + zeros[8:], ""},
		"unknown prefix":     {"pk_live_" + zeros[8:], ""},
		"hex":                {"old_" + strings.Repeat("aF0", 8), "legacy"},
		"hex, least":         {"old_" + strings.Repeat("a", 20), "legacy"},
		"hex, too short":     {"old_" + strings.Repeat("a", 19), ""},
		"hex, most":          {"old_" + strings.Repeat("a", 64), "legacy"},
		"hex, too long":      {"old_" + strings.Repeat("a", 65), ""},
		"no hex":             {"old_" + strings.Repeat("g", 24), ""},
		"issued prefix":      {"sk_live_" + strings.Repeat("q", 40), "moved"},
		"between the shapes": {"sk_live_" + strings.Repeat("q", 39), ""},
		"any":                {"SG." + strings.Repeat("a-._~+/=%", 4), "dotted"},
		"any but comma":      {"SG." + strings.Repeat("a", 24) + ",", ""},
		"any but quote":      {"SG." + strings.Repeat("a", 24) + `"`, ""},
		"any but space":      {"SG." + strings.Repeat("a", 24) + " ", ""},
		"NUL":                {zeros[:39] + "\x00", ""},
		"CR LF":              {zeros[:38] + "\r\n", ""},
		"UTF-8":              {zeros[:38] + "é", ""},
		"16 KiB":             {"sk_live_" + strings.Repeat("a", 16<<10), ""},
		"Bearer in front":    {"Bearer " + zeros, ""},
		"space behind":       {zeros + " ", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := ""
			if s := g.Match(tc.key); s != nil {
				got = s.Name + s.Environment
			}
			if got != tc.shape {
				t.Errorf("Match(%.60q) = %q, want %q", tc.key, got, tc.shape)
			}
		})
	}
}

func TestMatchWithoutPrefix(t *testing.T) {
	g := newGrammar(t, nil, Format{}, []Accept{{Name: "bare", MinLength: 32, MaxLength: 32, Charset: Base58}})
	if s := g.Match(strings.Repeat("z", 32)); s == nil || s.Name != "bare" {
		t.Errorf("Match = %v", s)
	}
	if s := g.Match(strings.Repeat("0", 32)); s != nil {
		t.Errorf("Match accepted a key that is not base58: %v", s)
	}
	if !reflect.DeepEqual(g.Environments(), []string{"live", "test"}) || !g.Prefixed("kg_live_") || !g.Prefixed("kg_test_x") {
		t.Error("the default prefixes are not kg_live_ and kg_test_")
	}
	if g.Prefixed(strings.Repeat("z", 32)) || g.Prefixed("") {
		t.Error("an empty prefix counts as one")
	}
}

func TestShown(t *testing.T) {
	g := testGrammar(t)
	zeros := "sk_live_" + strings.Repeat("0", 22) + "abcd"
	sum := checksum(zeros[8:])
	uuid := newGrammar(t, []Prefix{{"knouds_live_more_", "live"}}, Format{Length: 32, Checksum: NoChecksum},
		[]Accept{{Name: "uuid", MinLength: 36, MaxLength: 36, Charset: AnyChar}})
	for name, tc := range map[string]struct {
		g                *Grammar
		key, prefix, end string
	}{
		"issued":              {g, zeros + string(sum[:]), "sk_live_0000", string(sum[2:])},
		"same prefix":         {g, "sk_live_" + strings.Repeat("q", 36) + "wxyz", "sk_live_qqqq", "wxyz"},
		"80 bits":             {g, "old_" + strings.Repeat("a", 20), "old_", ""},
		"80 bits or more":     {g, "old_" + strings.Repeat("a", 64), "old_", ""},
		"no shape":            {g, "sk_live_nope", "", ""},
		"overlong":            {g, strings.Repeat("a", 1000), "", ""},
		"prefix longer than":  {uuid, "knouds_live_more_" + strings.Repeat("q", 28) + "wxyz", "knouds_live_", "wxyz"},
		"without prefix, any": {uuid, "01234567-89ab-cdef-0123-456789abcdef", "0123", ""},
	} {
		t.Run(name, func(t *testing.T) {
			prefix, end := tc.g.Shown(tc.key)
			if prefix != tc.prefix || end != tc.end {
				t.Errorf("Shown = %q, %q, want %q, %q", prefix, end, tc.prefix, tc.end)
			}
		})
	}
}

// Of a key with an issued and an accepted shape, Shown returns only as much as both may show.
func TestShownOfTwoShapes(t *testing.T) {
	g := newGrammar(t, []Prefix{{"sk_live_", "live"}}, Format{Checksum: NoChecksum},
		[]Accept{{Name: "hex", Prefix: "sk_live_", MinLength: 24, MaxLength: 64, Charset: Hex}})
	if p, l := g.Shown("sk_live_" + strings.Repeat("a", 32)); p != "sk_live_" || l != "" {
		t.Errorf("hex: %q, %q", p, l)
	}
	if p, l := g.Shown("sk_live_" + strings.Repeat("z", 32)); p != "sk_live_zzzz" || l != "zzzz" {
		t.Errorf("base62: %q, %q", p, l)
	}
}

// Every shape that NewGrammar accepts keeps 96 bits hidden, or shows nothing after the prefix.
func TestHiddenBits(t *testing.T) {
	for n := 1; n <= maxPrefix; n++ {
		for length := 20; length <= 48; length++ {
			for _, sum := range []Checksum{CRC32, NoChecksum} {
				g, err := NewGrammar([]Prefix{{strings.Repeat("p", n), "live"}}, Format{length, sum}, nil)
				random := length
				if sum == CRC32 {
					random -= 6
				}
				hidden := float64(random-max(0, 12-n)-4) * math.Log2(62)
				ok := n >= 2 && float64(random)*math.Log2(62) >= 128 && hidden >= 96
				if (err == nil) != ok {
					t.Errorf("prefix of %d, length %d, checksum %s: %v", n, length, sum, err)
				}
				if err != nil {
					continue
				}
				key := newKey(t, g)
				p, l := g.Shown(key)
				if len(p) != 12 || len(l) != 4 || !strings.HasPrefix(key, p) || !strings.HasSuffix(key, l) {
					t.Errorf("Shown(%q) = %q, %q", key, p, l)
				}
			}
		}
	}
	for _, c := range []Charset{Base62, Base58, Hex, AnyChar} {
		for n := minAccepted; n <= 80; n++ {
			g := newGrammar(t, nil, Format{}, []Accept{{Name: "a", Prefix: "xy_", MinLength: n, MaxLength: n, Charset: c}})
			s := g.shapes[2]
			open := s.ShownPrefix - 3 + s.ShownLast
			if open < 0 || open > 13 || open > 0 && float64(n-open)*c.bits() < 96 {
				t.Errorf("%s of %d shows %d and %d", c, n, s.ShownPrefix, s.ShownLast)
			}
		}
	}
}

// The error for too short a key names a length that NewGrammar accepts.
func TestLengthAdvice(t *testing.T) {
	for prefix, want := range map[string]string{"ck_": "at least 36", "vlk_": "at least 35", "ab": "at least 37"} {
		_, err := NewGrammar([]Prefix{{prefix, "live"}}, Format{}, nil)
		if err == nil || !strings.HasSuffix(err.Error(), want) || !strings.Contains(err.Error(), prefix) {
			t.Errorf("%s: error = %v, want one ending in %q", prefix, err, want)
		}
	}
	newGrammar(t, []Prefix{{"ck_", "live"}}, Format{Length: 36}, nil)
	newGrammar(t, []Prefix{{"vlk_", "live"}}, Format{Length: 35}, nil)
	newGrammar(t, []Prefix{{"convoy_sk_", "live"}}, Format{Checksum: NoChecksum}, nil)
	newGrammar(t, []Prefix{{"knouds_live_", "live"}}, Format{}, nil)
}

func TestNewGrammarRejects(t *testing.T) {
	live := []Prefix{{"sk_live_", "live"}}
	one := func(a Accept) []Accept { return []Accept{a} }
	for name, tc := range map[string]struct {
		prefixes []Prefix
		format   Format
		accept   []Accept
		want     string
	}{
		"empty prefix":       {[]Prefix{{"", "live"}}, Format{}, nil, "prefix: empty"},
		"short prefix":       {[]Prefix{{"k", "live"}}, Format{}, nil, `"k": too short`},
		"long prefix":        {[]Prefix{{strings.Repeat("k", 33), "live"}}, Format{}, nil, "33 characters"},
		"odd prefix":         {[]Prefix{{"sk live_", "live"}}, Format{}, nil, `"sk live_"`},
		"comma in prefix":    {[]Prefix{{"sk,live_", "live"}}, Format{}, nil, `"sk,live_"`},
		"no environment":     {[]Prefix{{"sk_live_", ""}}, Format{}, nil, `environment ""`},
		"odd environment":    {[]Prefix{{"sk_live_", "Live"}}, Format{}, nil, `environment "Live"`},
		"long environment":   {[]Prefix{{"sk_live_", strings.Repeat("e", 33)}}, Format{}, nil, "1 to 32"},
		"doubled":            {[]Prefix{{"sk_live_", "live"}, {"sk_live_", "test"}}, Format{}, nil, "given twice"},
		"ambiguous":          {[]Prefix{{"acme_livekey", "live"}, {"acme_live", "test"}}, Format{}, nil, "ambiguous"},
		"crc, 21 random":     {live, Format{Length: 27}, nil, "at least 28"},
		"none, 21 random":    {live, Format{Length: 21, Checksum: NoChecksum}, nil, "at least 22"},
		"negative length":    {live, Format{Length: -1}, nil, "length -1"},
		"too long":           {live, Format{Length: 256}, nil, "255 is the most"},
		"unknown checksum":   {live, Format{Checksum: "crc16"}, nil, `"crc16"`},
		"unnamed shape":      {live, Format{}, one(Accept{MinLength: 20, MaxLength: 20}), `accept ""`},
		"odd name":           {live, Format{}, one(Accept{Name: "a b", MinLength: 20, MaxLength: 20}), `accept "a b"`},
		"shape twice":        {live, Format{}, []Accept{{Name: "a", MinLength: 20, MaxLength: 20}, {Name: "a", MinLength: 30, MaxLength: 30}}, `accept "a": given twice`},
		"shape's prefix":     {live, Format{}, one(Accept{Name: "a", Prefix: "é_", MinLength: 20, MaxLength: 20}), `accept "a": prefix`},
		"percent in prefix":  {live, Format{}, one(Accept{Name: "a", Prefix: "a%5F", MinLength: 20, MaxLength: 20}), `accept "a": prefix`},
		"short shape prefix": {live, Format{}, one(Accept{Name: "a", Prefix: "a", MinLength: 20, MaxLength: 20}), "too short"},
		"long shape prefix":  {live, Format{}, one(Accept{Name: "a", Prefix: strings.Repeat("a", 33), MinLength: 20, MaxLength: 20}), "33 characters"},
		"charset":            {live, Format{}, one(Accept{Name: "a", MinLength: 20, MaxLength: 20, Charset: "base36"}), `"base36"`},
		"too short":          {live, Format{}, one(Accept{Name: "a", MinLength: 7, MaxLength: 20}), "from 7"},
		"too long a shape":   {live, Format{}, one(Accept{Name: "a", MinLength: 20, MaxLength: 513}), "to 513"},
		"upside down":        {live, Format{}, one(Accept{Name: "a", MinLength: 21, MaxLength: 20}), "from 21 to 20"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := NewGrammar(tc.prefixes, tc.format, tc.accept)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error = %v, want one with %q", err, tc.want)
			}
		})
	}
}

// TestPrefixBeginsPrefix checks that a prefix may begin another prefix if the rest of the longer prefix can't be random
// characters of a key.
func TestPrefixBeginsPrefix(t *testing.T) {
	g := newGrammar(t, []Prefix{{"acme_", "live"}, {"acme_test_", "test"}}, Format{Length: 40}, nil)
	for _, env := range g.Environments() {
		key, err := g.Generate(env)
		if err != nil {
			t.Fatal(err)
		}
		if s := g.Match(key); s == nil || s.Environment != env {
			t.Errorf("%s: Match(%q) = %+v", env, key, s)
		}
	}
}

func TestEnvironments(t *testing.T) {
	g := newGrammar(t, []Prefix{{"sk_new_", "live"}, {"sk_test_", "test"}, {"sk_old_", "live"}}, Format{}, nil)
	if e := g.Environments(); !reflect.DeepEqual(e, []string{"live", "test"}) {
		t.Errorf("Environments = %v", e)
	}
	key, err := g.Generate("live")
	if err != nil || !strings.HasPrefix(key, "sk_new_") {
		t.Errorf("Generate = %q, %v: not the first prefix of the environment", key, err)
	}
	_, err = g.Generate("Live")
	if !errors.Is(err, ErrEnvironment) || !strings.Contains(err.Error(), "live, test") {
		t.Errorf("unknown environment: %v", err)
	}
	shapes := g.Shapes()
	if len(shapes) != 3 || shapes[2].Prefix != "sk_old_" || shapes[2].MinLength != 32 {
		t.Errorf("Shapes = %+v", shapes)
	}
	shapes[0].Prefix, g.Environments()[0] = "changed", "changed"
	if g.shapes[0].Prefix != "sk_new_" || g.environments[0] != "live" {
		t.Error("the grammar shares memory with what it returned")
	}
}

func TestGrammarAllocatesNothing(t *testing.T) {
	g := testGrammar(t)
	key := newKey(t, g)
	text := "GET /v1/deploy?a=1&b=%2F HTTP/1.1"
	var sink bool
	for name, f := range map[string]func(){
		"Match":    func() { sink = g.Match(key) != nil },
		"no Match": func() { sink = g.Match(key[1:]) != nil },
		"Prefixed": func() { sink = g.Prefixed(key) },
		"Shown":    func() { p, _ := g.Shown(key); sink = p != "" },
		"Clean":    func() { sink = g.Clean(text) == text },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
	_ = sink
}
