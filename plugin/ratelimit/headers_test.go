package ratelimit

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/sfv"
	"github.com/keygate-dev/keygate/internal/testkit"
)

// structuredItem matches a member of the lists, in a strict subset of RFC 9651.
var structuredItem = regexp.MustCompile(`^"(?:[ !#-\[\]-~]|\\["\\])*"(?:;(?:[qrtw]=\d{1,15}|qu="[a-z-]+"))+$`)

func checkStructuredList(t testing.TB, list string, n int) {
	t.Helper()
	items := strings.Split(list, ", ")
	if len(items) != n {
		t.Fatalf("%q has %d members, want %d", list, len(items), n)
	}
	for _, item := range items {
		if !structuredItem.MatchString(item) {
			t.Fatalf("%q is not an item", item)
		}
	}
}

func rates(t testing.TB, text string) []*Policy {
	t.Helper()
	return testkit.Must[[]*Policy](t)(ParseRates(text))
}

func standing(p *Policy, remaining int64, reset, retry time.Duration) Standing {
	limit := p.Limit
	if p.Kind == Rate {
		limit = p.Burst
	}
	return Standing{Policy: p, Limit: limit, Remaining: remaining, Reset: reset, Retry: retry, Denied: retry > 0}
}

func outcome(kind Kind, st ...Standing) *Outcome {
	o := &Outcome{N: copy(make([]Standing, len(st)), st), Denied: kind != 0, Kind: kind}
	copy(o.Standings[:], st)
	return o
}

func TestWriteHeaders(t *testing.T) {
	minute := rates(t, "60/m")[0]
	burst := rates(t, "300/m burst 60 per tenant")[0]
	hour := rates(t, "60/h")[0]
	month := testkit.Must[*Policy](t)(ParseQuota("100000/month"))
	daily := testkit.Must[*Policy](t)(ParseQuota("500/day per key"))
	conc := testkit.Must[*Policy](t)(ParseConcurrency("50"))
	credits := NewCredits()
	all := HeaderOptions{X: true, IETF: true}
	now := time.Date(2024, 2, 10, 12, 0, 0, 0, time.UTC)
	balance := func(n int64, denied bool) Standing {
		return Standing{Policy: credits, Limit: n, Remaining: n, Denied: denied}
	}
	for _, tt := range []struct {
		name string
		o    *Outcome
		now  time.Time
		opt  HeaderOptions
		want map[string]string
	}{
		{"no policy", outcome(0), now, all, nil},
		{"one rate", outcome(0, standing(minute, 59, time.Second, 0)), now, all, map[string]string{
			"X-RateLimit-Limit": "60", "X-RateLimit-Remaining": "59", "X-RateLimit-Reset": "1707566401",
			"RateLimit-Policy": `"60/m";q=60;w=60`, "RateLimit": `"60/m";r=59;t=1`}},
		{"rounded up", outcome(0, standing(minute, 59, time.Second-time.Nanosecond, 0)), now.Add(2 * time.Nanosecond), all, map[string]string{
			"X-RateLimit-Limit": "60", "X-RateLimit-Remaining": "59", "X-RateLimit-Reset": "1707566402",
			"RateLimit-Policy": `"60/m";q=60;w=60`, "RateLimit": `"60/m";r=59;t=1`}},
		{"full", outcome(0, standing(minute, 60, 0, 0)), now, HeaderOptions{X: true, DeltaReset: true}, map[string]string{
			"X-RateLimit-Limit": "60", "X-RateLimit-Remaining": "60", "X-RateLimit-Reset": "0"}},
		{"denied", outcome(Rate, standing(burst, 0, 12*time.Second, 200*time.Millisecond)), now, HeaderOptions{X: true, IETF: true, DeltaReset: true}, map[string]string{
			"X-RateLimit-Limit": "60", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "12", "Retry-After": "1",
			"RateLimit-Policy": `"300/m;tenant";q=60;w=12`, "RateLimit": `"300/m;tenant";r=0;t=1`}},
		{"the longest wait of those that denied is shown", outcome(Rate, standing(minute, 0, time.Minute, time.Second),
			standing(daily, 3, 12*time.Hour, 12*time.Hour), standing(hour, 0, time.Hour, time.Minute)), now, HeaderOptions{X: true}, map[string]string{
			"X-RateLimit-Limit": "500", "X-RateLimit-Remaining": "3", "X-RateLimit-Reset": "1707609600", "Retry-After": "43200"}},
		{"the policy that denied, though another has fewer left", outcome(Quota, standing(minute, 2, time.Minute, 0),
			standing(daily, 3, 12*time.Hour, 12*time.Hour)), now, HeaderOptions{X: true, DeltaReset: true}, map[string]string{
			"X-RateLimit-Limit": "500", "X-RateLimit-Remaining": "3", "X-RateLimit-Reset": "43200", "Retry-After": "43200"}},
		{"fewest left", outcome(0, standing(hour, 10, 50*time.Minute, 0), standing(minute, 9, time.Minute, 0)), now, HeaderOptions{X: true, DeltaReset: true}, map[string]string{
			"X-RateLimit-Limit": "60", "X-RateLimit-Remaining": "9", "X-RateLimit-Reset": "60"}},
		{"of equal ones, the longer window", outcome(0, standing(minute, 9, time.Minute, 0), standing(hour, 9, 51*time.Minute, 0),
			standing(burst, 9, time.Second, 0)), now, HeaderOptions{X: true, DeltaReset: true}, map[string]string{
			"X-RateLimit-Limit": "60", "X-RateLimit-Remaining": "9", "X-RateLimit-Reset": "3060"}},
		{"a month is longer than a day", outcome(0, standing(daily, 9, time.Hour, 0), standing(month, 9, 2*time.Hour, 0)), now, HeaderOptions{X: true, DeltaReset: true}, map[string]string{
			"X-RateLimit-Limit": "100000", "X-RateLimit-Remaining": "9", "X-RateLimit-Reset": "7200"}},
		{"all kinds in a leap month", outcome(0, standing(minute, 5, time.Second, 0), standing(month, 99995, time.Hour, 0),
			standing(daily, 495, time.Hour, 0), standing(conc, 49, 0, 0), standing(CreditsLimit(9), 8, 0, 0), balance(495, false)), now, HeaderOptions{IETF: true}, map[string]string{
			"RateLimit-Policy": `"60/m";q=60;w=60, "100000/month";q=100000;w=2505600, "500/day";q=500;w=86400, "concurrency";q=50;qu="concurrent-requests", "credits_limit";q=9, "credits";q=495`,
			"RateLimit":        `"60/m";r=5;t=1, "100000/month";r=99995;t=3600, "500/day";r=495;t=3600, "concurrency";r=49, "credits_limit";r=8, "credits";r=495`}},
		{"January", outcome(0, standing(month, 1, time.Hour, 0)), now.AddDate(0, -1, 0), HeaderOptions{IETF: true}, map[string]string{
			"RateLimit-Policy": `"100000/month";q=100000;w=2678400`, "RateLimit": `"100000/month";r=1;t=3600`}},
		{"concurrency denied", outcome(Concurrency, standing(minute, 5, time.Second, 0), standing(conc, 0, 0, time.Second)), now, HeaderOptions{X: true, IETF: true, DeltaReset: true}, map[string]string{
			"X-RateLimit-Limit": "60", "X-RateLimit-Remaining": "5", "X-RateLimit-Reset": "1", "Retry-After": "1",
			"RateLimit-Policy": `"60/m";q=60;w=60, "concurrency";q=50;qu="concurrent-requests"`, "RateLimit": `"60/m";r=5;t=1, "concurrency";r=0;t=1`}},
		{"concurrency alone has no X- headers", outcome(0, standing(conc, 3, 0, 0)), now, HeaderOptions{X: true}, nil},
		{"denied credits have no time", outcome(Credits, balance(3, true)), now, all, map[string]string{
			"RateLimit-Policy": `"credits";q=3`, "RateLimit": `"credits";r=3`}},
		{"a key's credits limit has no time", outcome(Credits, Standing{Policy: CreditsLimit(5), Limit: 5, Denied: true}), now, all, map[string]string{
			"RateLimit-Policy": `"credits_limit";q=5`, "RateLimit": `"credits_limit";r=0`}},
		{"a rate and credits denied", outcome(Rate, standing(minute, 0, time.Minute, 3*time.Second), balance(0, true)), now, HeaderOptions{}, map[string]string{
			"Retry-After": "3"}},
		{"a balance beyond all bounds", outcome(0, balance(1<<62, false)), now, HeaderOptions{IETF: true}, map[string]string{
			"RateLimit-Policy": `"credits";q=999999999999999`, "RateLimit": `"credits";r=999999999999999`}},
		{"no headers selected", outcome(0, standing(minute, 5, time.Second, 0)), now, HeaderOptions{}, nil},
		{"a hostile name", outcome(0, standing(&Policy{Kind: Concurrency, Limit: 1, Name: "a\"\\\r\né"}, 1, 0, 0)), now, HeaderOptions{IETF: true}, map[string]string{
			"RateLimit-Policy": `"a\"\\____";q=1;qu="concurrent-requests"`, "RateLimit": `"a\"\\____";r=1`}},
	} {
		h := http.Header{"Retry-After": {"upstream's"}, "Ratelimit": {"x", "y"}}
		if tt.want["Retry-After"] == "" {
			delete(h, "Retry-After")
		}
		if tt.want["RateLimit"] == "" {
			delete(h, "Ratelimit")
		}
		tt.o.WriteHeaders(h, tt.now, tt.opt)
		if len(h) != len(tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, h, tt.want)
		}
		for k, want := range tt.want {
			if got := h.Values(k); len(got) != 1 || got[0] != want {
				t.Errorf("%s: %s is %q, want %q", tt.name, k, got, want)
			}
		}
		for _, k := range []string{"RateLimit", "RateLimit-Policy"} {
			if v := h.Get(k); v != "" {
				checkStructuredList(t, v, tt.o.N)
			}
		}
	}
}

func TestViolatedAndRetryAfter(t *testing.T) {
	minute, conc := rates(t, "60/m")[0], testkit.Must[*Policy](t)(ParseConcurrency("5"))
	o := outcome(Rate, standing(minute, 0, 0, 61*time.Second+1), standing(conc, 0, 0, time.Second), standing(minute, 9, 0, 0))
	if v := strings.Join(o.Violated(), " "); v != "60/m concurrency" {
		t.Error(v)
	}
	if d := o.RetryAfter(); d != 62*time.Second {
		t.Error(d)
	}
	var none Outcome
	if none.Violated() != nil || none.RetryAfter() != 0 {
		t.Error("the zero outcome denies")
	}
}

func TestWindow(t *testing.T) {
	for in, want := range map[string]int64{
		"60/m": 60, "300/m burst 60": 12, "10/s burst 1": 1, "100/2s": 2, "1/7d": 604800, "7/1m burst 3": 26,
		"1/366d burst 1000000000000": sfv.MaxInteger, "1000000000000/1ms": 1,
	} {
		if got := rates(t, in)[0].fixed.window; got != want {
			t.Errorf("%s: w=%d, want %d", in, got, want)
		}
	}
}

// A handler that changes or extends a header value does not affect other values or responses.
func TestHeaderValuesAreNotShared(t *testing.T) {
	o := outcome(0, standing(rates(t, "60/m")[0], 59, time.Second, 0))
	opt := HeaderOptions{X: true, IETF: true, DeltaReset: true}
	a, b := http.Header{}, http.Header{}
	o.WriteHeaders(a, time.Now(), opt)
	o.WriteHeaders(b, time.Now(), opt)
	for k := range a {
		a[k][0] = "changed"
		a[k] = append(a[k], "added")
	}
	for k := range a {
		if len(a[k]) != 2 || a[k][0] != "changed" || a[k][1] != "added" {
			t.Errorf("%s: %q", k, a[k])
		}
	}
	if b.Get("RateLimit") != `"60/m";r=59;t=1` || b.Get("X-RateLimit-Limit") != "60" {
		t.Errorf("another response has %v", b)
	}
}

func TestWriteHeadersAllocates(t *testing.T) {
	o := outcome(Rate, standing(rates(t, "60/m")[0], 0, time.Minute, time.Second),
		standing(testkit.Must[*Policy](t)(ParseQuota("100000/month")), 5, time.Hour, 0), Standing{Policy: NewCredits(), Limit: 5})
	h, now := http.Header{}, time.Now()
	if n := testing.AllocsPerRun(100, func() { o.WriteHeaders(h, now, HeaderOptions{X: true, IETF: true}) }); n > 2 {
		t.Errorf("%v allocations, want 2", n)
	}
}
