package redact

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/keygate-dev/keygate/plugin/apikey"
)

// The log filter does not search a header again that the same cleaner has searched for the log
// line, since that would double the cost.
func TestLoggedHeaderIsCleanedOnce(t *testing.T) {
	g, places := logGrammar()
	s := newSecrets(apikey.NewCleaner(g), places.List())
	other, err := apikey.NewGrammar([]apikey.Prefix{{Value: "ck_", Environment: "live"}}, apikey.Format{Length: 40}, nil)
	if err != nil {
		t.Fatal(err)
	}
	h := newLoggedHeader(http.Header{"X-A": {"a", "b"}, "X-B": {plantedKey}, "Cookie": {"a=b"}}, false, s)
	if got := strings.Join(slices.Sorted(slices.Values(h.suspects)), " "); got != "Cookie X-B" {
		t.Errorf("suspects are %q", got)
	}
	// A key that is put into the header now stays in the output, unless the header is searched
	// again.
	for i := range h.fields {
		if h.fields[i].name == "X-A" {
			h.fields[i].values[1] = plantedKey
		}
	}
	value := func() string {
		for _, f := range h.fields {
			if f.name == "X-A" {
				return f.values[1]
			}
		}
		return ""
	}
	if h.clean(s); value() != plantedKey {
		t.Error("the same cleaner searched the header again")
	}
	if h.clean(newSecrets(apikey.NewCleaner(g, other), nil)); value() != shownKey {
		t.Errorf("another cleaner leaves %q", value())
	}
}

// With a log line, only forwarded headers in which the line's search found a key are cleaned.
// Without a line, all forwarded headers are searched.
func TestForwardedHeadersAreCleanedOnce(t *testing.T) {
	g, places := logGrammar()
	logs := &Logs{access: namedLogger{Logger: zap.NewNop()}, secrets: NewSecrets(apikey.NewCleaner(g), places.List())}
	read := map[string]int{}
	logs.forwardedText = func(v string) string { read[v]++; return g.CleanWords(v) }
	h := http.Header{"X-A": {"a"}, "X-B": {plantedKey, plantedKey, plantedKey, "b"}}
	a := &RequestLog{logs: logs, on: true, arrived: newLoggedHeader(h, false, &logs.secrets)}
	clean := func() {
		for name, values := range h {
			a.CleanHeader(h, name, values)
		}
		a.CleanHeaders(h)
	}
	clean()
	if got := strings.Join(h["X-B"], " "); got != strings.Repeat(shownKey+" ", 3)+"b" {
		t.Errorf("the forwarded header is %q", got)
	}
	if len(read) != 2 || read[plantedKey] != 1 || read["b"] != 1 {
		t.Errorf("the cleaner searched %v", read)
	}
	a.on = false
	if clean(); read["a"] != 1 {
		t.Errorf("without a line, the cleaner searched %v", read)
	}
}

// A URI that appears in several fields is cleaned once.
func TestURIIsCleanedOnce(t *testing.T) {
	g, places := logGrammar()
	a := &RequestLog{secrets: NewSecrets(apikey.NewCleaner(g), places.List())}
	uri := "/a?x=" + plantedKey
	first := a.URI(uri)
	if first != "/a?x="+shownKey {
		t.Fatalf("it is %q", first)
	}
	if n := testing.AllocsPerRun(10, func() { a.URI(uri) }); n != 0 {
		t.Errorf("the second time costs %v allocations", n)
	}
	if got := a.URI("/b"); got != "/b" {
		t.Errorf("another is %q", got)
	}
}

// The parts of a query or a cookie that hold no key cause no allocation, however many there are.
func TestPartsWithoutKeysAllocateNothing(t *testing.T) {
	s := testSecrets()
	for _, uri := range []string{"/?" + strings.Repeat("&", 2000), "/?" + strings.Repeat("a=b&", 500), "/?" + strings.Repeat("tok%65n=&", 200)} {
		if n := testing.AllocsPerRun(10, func() { s.uri(uri) }); n != 0 {
			t.Errorf("%.20s: %v allocations", uri, n)
		}
	}
	for _, v := range []string{strings.Repeat(";", 2000), strings.Repeat("a=b;", 500)} {
		if n := testing.AllocsPerRun(10, func() { s.inPlaces("Cookie", v) }); n != 0 {
			t.Errorf("%.20s: %v allocations", v, n)
		}
	}
}
