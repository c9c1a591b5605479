package ratelimit

import (
	"strings"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
)

func TestParseRate(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want Policy
	}{
		{"60/m", Policy{Limit: 60, Period: time.Minute, Burst: 60, Per: PerKey, Name: "60/m"}},
		{" 10/s ", Policy{Limit: 10, Period: time.Second, Burst: 10, Per: PerKey, Name: "10/s"}},
		{"100/2s", Policy{Limit: 100, Period: 2 * time.Second, Burst: 100, Per: PerKey, Name: "100/2s"}},
		{"5000/12h", Policy{Limit: 5000, Period: 12 * time.Hour, Burst: 5000, Per: PerKey, Name: "5000/12h"}},
		{"1/7d", Policy{Limit: 1, Period: 7 * day, Burst: 1, Per: PerKey, Name: "1/7d"}},
		{"7/1h30m", Policy{Limit: 7, Period: 90 * time.Minute, Burst: 7, Per: PerKey, Name: "7/1h30m"}},
		{"300/m burst 60", Policy{Limit: 300, Period: time.Minute, Burst: 60, Per: PerKey, Name: "300/m"}},
		{"300/m burst 60 per tenant", Policy{Limit: 300, Period: time.Minute, Burst: 60, Per: PerTenant, Name: "300/m;tenant"}},
		{"300/m per address", Policy{Limit: 300, Period: time.Minute, Burst: 300, Per: PerAddress, Name: "300/m;address"}},
		{"300/m per key", Policy{Limit: 300, Period: time.Minute, Burst: 300, Per: PerKey, Name: "300/m"}},
		{"1000000000000/366d burst 1", Policy{Limit: MaxLimit, Period: 366 * day, Burst: 1, Per: PerKey, Name: "1000000000000/366d"}},
		{"1/1ms", Policy{Limit: 1, Period: time.Millisecond, Burst: 1, Per: PerKey, Name: "1/1ms"}},
	} {
		tt.want.Kind = Rate
		got, err := ParseRate(tt.in)
		if err != nil || !got.Equal(&tt.want) {
			t.Errorf("%q: %+v, %v, want %+v", tt.in, got, err, tt.want)
		}
	}
	for in, want := range map[string]string{
		"": "empty rate", "60": "no period", "/m": "missing", "0/m": "at least 1", "-1/m": "whole number",
		"1.5/m": "whole number", "1000000000001/m": "more than", "99999999999999999999/m": "more than",
		"60/": "period", "60/x": "period", "60/day": "period", "60/M": "period", "60/-2s": "period",
		"60/+2s": "period", "60/2µs": "period", "60/0s": "from 1ms", "60/999us": "period", "60/0.5ms": "from 1ms",
		"60/367d": "from 1ms", "60/99999999999d": "from 1ms", "60/8785h": "from 1ms", "60/99999999999999999999d": "period",
		"60/m/s": "period", "60/1d12h": "period", "60/m burst": "needs a number", "60/m burst 0": "at least 1",
		"60/m burst 1000000000001": "more than", "60/m per": "scope is missing", "60/m per user": "per key",
		"60/m per key burst 5": "unexpected", "60/m burst 5 burst 6": "unexpected", "60/m bursts 5": "unexpected",
		"60 / m": "no period", "60/m, 10/s": "period", "１/m": "whole number",
	} {
		p, err := ParseRate(in)
		if err == nil {
			t.Errorf("%q was parsed as %v", in, p)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %q does not contain %q", in, err, want)
		} else if in != "" && !strings.Contains(err.Error(), strings.Trim(strings.Split(in, "µ")[0], "\uff11")) {
			t.Errorf("%q is not in the error %q", in, err)
		}
	}
}

func TestParseOthers(t *testing.T) {
	for _, tt := range []struct {
		parse func(string) (*Policy, error)
		in    string
		want  Policy
	}{
		{ParseQuota, "100000/month", Policy{Kind: Quota, Limit: 100000, Calendar: Month, Per: PerTenant, Name: "100000/month"}},
		{ParseQuota, "5/day per key", Policy{Kind: Quota, Limit: 5, Calendar: Day, Per: PerKey, Name: "5/day"}},
		{ParseQuota, "5/day per tenant", Policy{Kind: Quota, Limit: 5, Calendar: Day, Per: PerTenant, Name: "5/day;tenant"}},
		{ParseConcurrency, "50", Policy{Kind: Concurrency, Limit: 50, Per: PerKey, Name: "concurrency"}},
		{ParseConcurrency, "50 per tenant", Policy{Kind: Concurrency, Limit: 50, Per: PerTenant, Name: "concurrency;tenant"}},
	} {
		if got, err := tt.parse(tt.in); err != nil || !got.Equal(&tt.want) {
			t.Errorf("%q: %+v, %v, want %+v", tt.in, got, err, tt.want)
		}
	}
	for _, in := range []string{"", "5", "5/m", "5/week", "0/day", "x/day", "5/day burst 5", "5/day per", "5/days", "5/Day", "/month"} {
		if p, err := ParseQuota(in); err == nil {
			t.Errorf("quota %q was parsed as %v", in, p)
		}
	}
	for _, in := range []string{"", "0", "-1", "x", "5 per", "5 per tenant key", "5/m", "1000000000001"} {
		if p, err := ParseConcurrency(in); err == nil {
			t.Errorf("concurrency %q was parsed as %v", in, p)
		}
	}
	if p := CreditsLimit(5); p.Reason() != Credits || p.Kind != Quota || p.Per != PerKey || p.Calendar != Total || p.Name != "credits_limit" {
		t.Errorf("credits limit: %+v", p)
	}
	if p := NewCredits(); p.Kind != Credits || p.Per != PerTenant || p.Name != "credits" {
		t.Errorf("credits: %+v", p)
	}
}

func TestParseLists(t *testing.T) {
	got := testkit.Must[[]*Policy](t)(ParseRates("300/m burst 60,  10/s per tenant , 10/s"))
	if want := "300/m burst 60, 10/s per tenant, 10/s"; Format(got) != want {
		t.Errorf("%q, want %q", Format(got), want)
	}
	if got, err := ParseRates("  "); got != nil || err != nil {
		t.Errorf("nothing: %v, %v", got, err)
	}
	for _, in := range []string{",", "60/m,", "60/m,,10/s", "60/m, 60/m burst 5", strings.Repeat("1/s,", 20) + "1/s"} {
		if got, err := ParseRates(in); err == nil {
			t.Errorf("%q was parsed as %v", in, got)
		}
	}
	many := make([]string, MaxLines+1)
	for i := range many {
		many[i] = strings.Repeat("1", i%12+1) + "/" + []string{"s", "m"}[i/12]
	}
	if _, err := ParseRates(strings.Join(many, ", ")); err == nil {
		t.Error("more than MaxLines rates were parsed")
	}
	if _, err := ParseRates(strings.Join(many[1:], ", ")); err != nil {
		t.Error(err)
	}
	if got := testkit.Must[[]*Policy](t)(ParseQuotas("5/day, 5/month per key")); len(got) != 2 {
		t.Error(got)
	}
	if got := testkit.Must[[]*Policy](t)(ParseConcurrencies("5, 9 per tenant")); len(got) != 2 {
		t.Error(got)
	}
}

// fuzz checks that an accepted text survives formatting and parsing, and that its name is safe in
// headers.
func fuzz(f *testing.F, parse func(string) (*Policy, error), seeds ...string) {
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parse(text)
		if err != nil {
			if p != nil || err.Error() == "" {
				t.Fatalf("%q: %v with %v", text, p, err)
			}
			return
		}
		again, err := parse(p.String())
		if err != nil || *again != *p || again.String() != p.String() {
			t.Fatalf("%q: %+v is formatted as %q and parsed as %+v, %v", text, p, p, again, err)
		}
		if p.Limit < 1 || p.Limit > MaxLimit || p.Kind == Rate && (p.Burst < 1 || p.Period < MinPeriod || p.Period > MaxPeriod) {
			t.Fatalf("%q: out of range: %+v", text, p)
		}
		for i := range len(p.Name) {
			if c := p.Name[i]; c <= ' ' || c > '~' || c == '"' || c == '\\' || c == ',' {
				t.Fatalf("%q: %q in the name %q", text, c, p.Name)
			}
		}
		checkStructuredList(t, p.fixed.item, 1)
	})
}

func FuzzParseRate(f *testing.F) {
	fuzz(f, ParseRate, "60/m", "300/m burst 60 per tenant", "100/2s per address", "1/7d", "1000000000000/1ms burst 1000000000000",
		"5/1h30m per key", "60/m\r\nX: y", "00/m", "007/s", "1/9.5s", "1/1ms1ms", "1/366d")
}

func FuzzParseQuota(f *testing.F) {
	fuzz(f, ParseQuota, "100000/month", "5/day per key", "5/day per tenant", "5/day per address", "5/month\x00")
}

func FuzzParseConcurrency(f *testing.F) {
	fuzz(f, ParseConcurrency, "50", "50 per tenant", "1 per address", "050 per key", "5 per")
}
