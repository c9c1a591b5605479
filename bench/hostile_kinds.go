package main

import (
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/keygate-dev/keygate/plugin/apikey"
)

// request is a request without a known key.
type request struct {
	// An empty method means GET, an empty path /v1/things.
	method, path string
	headers      []header
}

type header struct {
	name, value string
	// times is how often the header is sent. Over HTTP/2, each repetition costs the sender one
	// byte.
	times int
}

// kind is one way in which a request can be made costly for the server.
type kind struct {
	name    string
	request request
}

// entry is the length of the longest header values. With its name, such a value just fits into
// HTTP/2's header table.
const entry = 3900

// fill repeats unit as often as it fits into entry bytes.
func fill(unit string) string { return strings.Repeat(unit, entry/len(unit)) }

// kinds returns the known ways to make a request costly.
func kinds() []kind {
	value := func(name, v string) kind { return kind{name, request{headers: []header{{"x-a", v, 4}}}} }
	of := func(name string, headers ...header) kind { return kind{name, request{headers: headers}} }
	var many []header
	for i := range 150 {
		many = append(many, header{fmt.Sprintf("x-%d", i), "kg_live_%6b", 1})
	}
	return []kind{
		of("plain"),
		value("letters", fill("a")),
		value("percent signs", fill("%")),
		value("percent signs in JSON", fill(`\u0025`)),
		value("backslashes", fill(`\`)),
		value("%25 again and again", fill("%25")),
		value("%2525 again and again", fill("%2525")),
		value("half escapes", fill("%2")),
		value("half escapes and whole ones", fill("%2%2%25")),
		value("percent signs and whole ones", fill("%%%25")),
		value("an escaped letter of a prefix", fill("%6b")),
		value("the same three times over", fill("%25256b")),
		value("non-standard escapes", fill("%u006b")),
		value("escapes in mixed case", fill("%6B%6b%5F%5f")),
		value("first letters of a prefix", fill("k")+"%"),
		value("anchors of a prefix", fill("_")),
		value("nearly a prefix", fill("kg_liv")+"%"),
		value("prefixes alone", fill("kg_live_")),
		value("prefixes, escaped", fill("%6bg%5flive%5f")),
		value("prefixes of every product", fill("ck_vlk_sk_live_kg_live_convoy_sk_kgm_")),
		value("keys", fill("kg_live_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA,")),
		value("cut keys", fill("sk_live_AAAAAAAA,")),
		value("words with a prefix", fill("xkg_live_abcdefgh")),
		of("many headers", many...),
		of("many values", header{"x-a", "kg_%6b", 200}),
		of("Basic", header{"authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte(fill("k:"))), 1}),
		of("Bearer, too long", header{"authorization", "Bearer " + fill("a"), 1}),
		of("Bearer, many words", header{"authorization", "Bearer " + fill("a,"), 1}),
		of("Authorization, many", header{"authorization", "Bearer own", 200}),
		of("X-API-Key, many words", header{"x-api-key", fill("a,"), 1}),
		of("X-API-Key, unknown", header{"x-api-key", "kg_live_0000000000000000000000000000AAAA", 1}),
		of("cookies", header{"cookie", fill("a=b;"), 4}),
		of("cookies of the key's name", header{"cookie", fill("session_key=a;"), 4}),
		of("semicolons", header{"cookie", fill(";"), 4}),
		of("Connection", header{"connection", fill("a,"), 1}),
		of("X-Tenant headers", header{"x-tenant-a", fill("a"), 4}),
		of("Referer", header{"referer", "https://a.example/?" + fill("a=%6b&"), 4}),
		{"ampersands", request{path: "/v1?" + fill("&")}},
		{"parameters", request{path: "/v1?" + fill("a=b&")}},
		{"parameters with escaped names", request{path: "/v1?" + fill("%61pi_ke=%&")}},
		{"parameters of the key's name", request{path: "/v1?" + fill("api_key=&")}},
		{"percent signs in the query", request{path: "/v1?a=" + fill("%25")}},
		path("backslashes and more", "/v1/", "%5c..;/"),
		path("encoded slashes", "/v1/", "%2f"),
		path("dot segments", "/v1/", "./"),
		path("dot dot segments", "/v1/a/", "a/../"),
		path("slashes", "/v1/", "/"),
		path("semicolons", "/v1/", ";"),
		path("semicolons and slashes", "/v1/", ";/"),
		path("encoded twice", "/v1/", "%252f"),
		path("dots", "/v1/", "."),
		path("needless escapes", "/v1/", "%61"),
		path("bytes that are no UTF-8", "/v1/", "%ff"),
		path("many segments", "/v1/", "a/"),
		path("encoded slashes, allowed", "/projects/", "a%2f"),
		path("as sent, encoded slashes", "/s3/", "a%2f"),
		path("as sent, many readings", "/s3/", "%2f..%5c;a/%252e//"),
		path("as sent, dots", "/s3/", "../a/"),
	}
}

// path returns a kind whose path is prefix and then unit, repeated up to 2,000 bytes.
func path(name, prefix, unit string) kind {
	return kind{"path: " + name, request{path: prefix + strings.Repeat(unit, (2000-len(prefix))/len(unit))}}
}

// parts are the pieces that random texts are built from.
var parts = []string{
	"%", "%%", "%2", "%25", "%2525", "%6", "%6b", "%256b", "%5f", "%5F", "%u006b", `\`, `\u`, `\u00`, `\u0025`, `\u006b`,
	"k", "kg", "kg_", "kg_live", "kg_live_", "kgm_", "ck_", "sk_live_", "vlk_", "convoy_sk_", "_", "a", "2", "5", "25", "6b",
	"AAAAAAAA", "abcdefgh", ",", ";", " ", "/", "-", "\"",
}

// costliest returns the one of n random texts that apikey.Cleaner takes the longest to clean,
// relative to its length.
func costliest(n int) string {
	var grammars []*apikey.Grammar
	for _, prefix := range []string{"kg_live_", "ck_", "convoy_sk_", "vlk_", "sk_live_", "knouds_live_", "kgm_"} {
		g, err := apikey.NewGrammar([]apikey.Prefix{{Value: prefix, Environment: "live"}}, apikey.Format{Length: 40}, nil)
		if err != nil {
			panic(err) // impossible: the grammars are constants
		}
		grammars = append(grammars, g)
	}
	c := apikey.NewCleaner(grammars...)
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	cost := func(unit string, times int) time.Duration {
		text, least := strings.Repeat(unit, 400/len(unit)+1), time.Hour
		for range times {
			before := time.Now()
			c.Clean(text)
			least = min(least, time.Since(before)*1000/time.Duration(len(text)))
		}
		return least
	}
	best, most := "%", time.Duration(0)
	for range n {
		var b strings.Builder
		if rng.IntN(3) == 0 { // One time in three, the text is a change of the costliest text so far.
			at := rng.IntN(len(best))
			b.WriteString(best[:at] + parts[rng.IntN(len(parts))] + best[at+rng.IntN(len(best)-at):])
		} else {
			for range 1 + rng.IntN(6) {
				b.WriteString(parts[rng.IntN(len(parts))])
			}
		}
		unit := b.String()
		if len(unit) > 60 || cost(unit, 2) <= most {
			continue
		}
		// A second, longer measurement confirms the cost: another process may have disturbed the
		// first.
		if t := cost(unit, 20); t > most {
			best, most = unit, t
		}
	}
	return fill(best)
}

// inPath replaces characters that a path can't hold, or that make it ambiguous, by "a".
func inPath(r rune) rune {
	if r <= ' ' || r == '"' || r == '\\' || r == '%' || r == ';' {
		return 'a'
	}
	return r
}
