package caddymodule

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/keygate-dev/keygate/plugin/apikey"
)

// What a line's header was cleaned by, the log filter does not read again: its cost would be paid twice.
func TestLoggedHeaderIsCleanedOnce(t *testing.T) {
	g, places := logGrammar()
	s := &logSecrets{apikey.NewCleaner(g), places.List()}
	other, err := apikey.NewGrammar([]apikey.Prefix{{Value: "ck_", Environment: "live"}}, apikey.Format{Length: 40}, nil)
	if err != nil {
		t.Fatal(err)
	}
	h := loggedHeaderOf(http.Header{"X-A": {"a", "b"}, "X-B": {plantedKey}, "Cookie": {"a=b"}}, false, s)
	if got := strings.Join(slices.Sorted(slices.Values(h.suspects)), " "); got != "Cookie X-B" {
		t.Errorf("suspects are %q", got)
	}
	// From now on a key in it shows whether it is read.
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
		t.Error("it was read again by the same cleaner")
	}
	if h.clean(&logSecrets{apikey.NewCleaner(g, other), nil}); value() != shownKey {
		t.Errorf("another cleaner leaves %q", value())
	}
}

// A line of a request is without the keys of all keyspaces, and what goes on is looked at only where its line shows a key.
func TestStripReadsWhatTheLineFound(t *testing.T) {
	g, places := logGrammar()
	logs := &requestLogs{access: namedLogger{Logger: zap.NewNop()}, secrets: logSecrets{apikey.NewCleaner(g), places.List()}}
	read := map[string]int{}
	logs.onward = func(v string) string { read[v]++; return g.CleanWords(v) }
	h := http.Header{"X-A": {"a"}, "X-B": {plantedKey, plantedKey, plantedKey, "b"}}
	a := &accessLog{requestLogs: logs, on: true, arrived: loggedHeaderOf(h, false, &logs.secrets)}
	a.strip(&http.Request{Header: h}, allOverrides)
	if got := strings.Join(h["X-B"], " "); got != strings.Repeat(shownKey+" ", 3)+"b" {
		t.Errorf("what goes on is %q", got)
	}
	if len(read) != 2 || read[plantedKey] != 1 || read["b"] != 1 {
		t.Errorf("read were %v", read)
	}
	a.on = false
	if a.strip(&http.Request{Header: h}, allOverrides); read["a"] != 1 {
		t.Errorf("without a line, read were %v", read)
	}
}

// A URI that several fields show is cleaned once.
func TestURIIsCleanedOnce(t *testing.T) {
	g, places := logGrammar()
	a := &accessLog{secrets: logSecrets{apikey.NewCleaner(g), places.List()}}
	uri := "/a?x=" + plantedKey
	first := a.uri(uri)
	if first != "/a?x="+shownKey {
		t.Fatalf("it is %q", first)
	}
	if n := testing.AllocsPerRun(10, func() { a.uri(uri) }); n != 0 {
		t.Errorf("the second time costs %v allocations", n)
	}
	if got := a.uri("/b"); got != "/b" {
		t.Errorf("another is %q", got)
	}
}

// However many parts a query or a cookie has, those that hold no key cost no allocation.
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
	for in, want := range map[string]string{"": "", ";": ";", "a;b": "A;B", ";a;;b;": ";A;;B;"} {
		if got := mapParts(in, ';', strings.ToUpper); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
}
