package scanner

import (
	"regexp"
	"strings"
	"testing"

	"github.com/keygate-dev/keygate/plugin/apikey"
)

func grammar(t *testing.T) *apikey.Grammar {
	t.Helper()
	g, err := apikey.NewGrammar(
		[]apikey.Prefix{{Value: "sk_live_", Environment: "live"}, {Value: "sk_old_", Environment: "live"}, {Value: "sk-test-", Environment: "test"}},
		apikey.Format{},
		[]apikey.Accept{
			{Name: "hexes", Prefix: "k.", MinLength: 16, MaxLength: 40, Charset: apikey.Hex},
			{Name: "b58", Prefix: "b58_", MinLength: 20, MaxLength: 20, Charset: apikey.Base58},
			{Name: "any", Prefix: "$any|", MinLength: 12, MaxLength: 512, Charset: apikey.AnyChar},
			{Name: "bare", MinLength: 32, MaxLength: 32},
		})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// finders returns one function for each format. The function returns the keys that the rules of that format find in a text.
func finders(t *testing.T, shapes []apikey.Shape) map[Format]func(string) []string {
	t.Helper()
	printed := func(f Format) string {
		text, err := Rules(f, "shop", shapes)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	find := func(expressions []string) func(string) []string {
		return func(text string) (found []string) {
			for _, e := range expressions {
				for _, m := range regexp.MustCompile(e).FindAllStringSubmatch(text, -1) {
					found = append(found, m[1])
				}
			}
			return found
		}
	}
	out := map[Format]func(string) []string{}
	var expressions []string
	for _, m := range regexp.MustCompile(`(?m)^regex = '''(.*)'''$`).FindAllStringSubmatch(printed(Gitleaks), -1) {
		expressions = append(expressions, m[1])
	}
	out[Gitleaks] = find(expressions)

	expressions = nil
	detector := regexp.MustCompile(`  - name: '[a-z0-9-]+'\n    description: '[^']+'\n    keywords:\n      - '[^']+'\n    regex:\n      key: '([^']+)'\n`)
	text := printed(TruffleHog)
	for _, m := range detector.FindAllStringSubmatch(text, -1) {
		expressions = append(expressions, m[1])
	}
	if rest := detector.ReplaceAllString(text, ""); !strings.HasSuffix(rest, "\ndetectors:\n") {
		t.Errorf("the rules hold more than detectors: %q", rest)
	}
	out[TruffleHog] = find(expressions)

	expressions = nil
	for _, m := range regexp.MustCompile(`(?m)^Secret format:  (.*)\nBefore secret:  (.*)\nAfter secret:   (.*)$`).FindAllStringSubmatch(printed(GitHub), -1) {
		expressions = append(expressions, "(?:"+m[2]+")("+m[1]+")(?:"+m[3]+")")
	}
	out[GitHub] = find(expressions)
	return out
}

func TestRulesFindKeys(t *testing.T) {
	g := grammar(t)
	var keys []string
	for _, environment := range g.Environments() {
		for range 20 {
			key, err := g.Generate(environment)
			if err != nil {
				t.Fatal(err)
			}
			keys = append(keys, key)
		}
	}
	keys = append(keys,
		"sk_old_"+strings.Repeat("a1", 16),
		"k."+strings.Repeat("aF", 8), "k."+strings.Repeat("09", 20),
		"b58_"+strings.Repeat("z9", 10),
		"$any|a(b)[c]{d}~!", "$any|"+strings.Repeat(`-:<\`, 128))
	around := [][2]string{{"", ""}, {"key=", "\n"}, {`"`, `"`}, {"https://x/?k=", "&a=b"}, {"(", ")"}}
	for f, find := range finders(t, g.Shapes()) {
		for _, key := range keys {
			for _, a := range around {
				if strings.HasPrefix(key, "$any|") && a[1] != "" && strings.Trim(a[1], `"`+"\n") != "" {
					continue // A key of any characters may contain & and ), so the rules can't find the end of such a key there.
				}
				if got := find(a[0] + key + a[1]); len(got) != 1 || got[0] != key {
					t.Errorf("%s: in %q found %q", f, a[0]+key+a[1], got)
				}
			}
		}
	}
}

func TestRulesFindNothingElse(t *testing.T) {
	body := strings.Repeat("a", 32)
	texts := []string{
		"", "sk_live_", "sk_live_" + body[1:], "sk_live_" + body + "a", "xsk_live_" + body, "SK_LIVE_" + body,
		"sk_live_" + body[:31] + "-", "sk_dev_" + body, "sk.test." + body, body,
		"k." + body[:15], "kx" + body, "k." + strings.Repeat("g", 20), "b58_" + strings.Repeat("0", 20),
		"b58_" + strings.Repeat("l", 20), "$any|short", "$any|" + strings.Repeat("a,", 20), "Xany|" + body,
	}
	for f, find := range finders(t, grammar(t).Shapes()) {
		for _, text := range texts {
			if got := find("key: " + text + " "); len(got) != 0 {
				t.Errorf("%s: in %q found %q", f, text, got)
			}
		}
	}
}

// The rules find both of two keys that only a comma separates.
func TestRulesFindAdjacentKeys(t *testing.T) {
	g := grammar(t)
	first, err := g.Generate("live")
	if err != nil {
		t.Fatal(err)
	}
	second, err := g.Generate("live")
	if err != nil {
		t.Fatal(err)
	}
	all := finders(t, g.Shapes())
	for _, f := range []Format{Gitleaks, TruffleHog} {
		if got := all[f](first + "," + second); len(got) != 2 {
			t.Errorf("%s: found %q", f, got)
		}
	}
}

// class matches exactly the characters that a Grammar accepts for the charset.
func TestClassMatchesCharset(t *testing.T) {
	for _, charset := range []apikey.Charset{apikey.Base62, apikey.Base58, apikey.Hex, apikey.AnyChar} {
		g, err := apikey.NewGrammar(nil, apikey.Format{}, []apikey.Accept{{Name: "x", Prefix: "x_", MinLength: 8, MaxLength: 8, Charset: charset}})
		if err != nil {
			t.Fatal(err)
		}
		one := regexp.MustCompile("^" + class(charset) + "{8}$")
		for c := range 128 {
			body := strings.Repeat(string(rune(c)), 8)
			if got, want := one.MatchString(body), g.Match("x_"+body) != nil; got != want {
				t.Errorf("%s: %q matches: %v, is in the charset: %v", charset, body[:1], got, want)
			}
		}
	}
}

func TestRuleNamesDiffer(t *testing.T) {
	text, err := Rules(Gitleaks, "shop", grammar(t).Shapes())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`id = "keygate-shop-live"`, `id = "keygate-shop-live-2"`, `id = "keygate-shop-hexes"`, "# Keys of the shape bare have no prefix"} {
		if strings.Count(text, want) < 1 {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if _, err := Rules("nosuch", "shop", nil); err == nil {
		t.Error("Rules accepted an unknown format")
	}
}
