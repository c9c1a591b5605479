package ratelimit

import (
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keygate-dev/keygate/internal/sfv"
)

// The bounds of the numbers in a policy.
const (
	// MaxLimit bounds every number of requests or units in a policy.
	MaxLimit = 1_000_000_000_000
	// MinPeriod and MaxPeriod bound the period of a rate.
	MinPeriod = time.Millisecond
	MaxPeriod = 366 * 24 * time.Hour
)

// day is the unit "d" of a rate's period, and the window of a daily quota.
const day = 24 * time.Hour

var (
	kindNames     = [...]string{Rate: "rate", Quota: "quota", Concurrency: "concurrency", Credits: "credits"}
	perNames      = [...]string{PerKey: "key", PerTenant: "tenant", PerAddress: "address"}
	calendarNames = [...]string{Day: "day", Month: "month", Total: "total"}
	periods       = map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour, "d": day}
)

// nameOf returns the i-th name, "unknown" if there is none.
func nameOf(names []string, i uint8) string {
	if i == 0 || int(i) >= len(names) {
		return "unknown"
	}
	return names[i]
}

// String returns "rate", "quota", "concurrency" or "credits".
func (k Kind) String() string { return nameOf(kindNames[:], uint8(k)) }

// String returns "key", "tenant" or "address", as written after "per".
func (p Per) String() string { return nameOf(perNames[:], uint8(p)) }

// String returns "day", "month" or "total". The first two are also the text of a quota's period.
func (c Calendar) String() string { return nameOf(calendarNames[:], uint8(c)) }

// Reason returns the kind that a denial by the policy reports. It differs from Kind for a key's
// credits_limit, which counts as a quota but reports that credits are used up.
func (p *Policy) Reason() Kind {
	if p.Kind == Quota && p.Calendar == Total {
		return Credits
	}
	return p.Kind
}

// Equal reports whether two policies are equal, including their names.
func (p *Policy) Equal(q *Policy) bool {
	return p == q || p.Kind == q.Kind && p.Per == q.Per && p.Limit == q.Limit && p.Period == q.Period &&
		p.Burst == q.Burst && p.Calendar == q.Calendar && p.Name == q.Name
}

// ParseRate parses "<n>/<period> [burst <n>] [per key|tenant|address]". The period is s, m, h, d,
// a number of days ("7d") or a Go duration ("100/2s", "5000/12h"), from 1ms to 366d. Both numbers
// are from 1 to 1e12. Defaults: a burst of n, per key.
func ParseRate(text string) (*Policy, error) {
	f := strings.Fields(text)
	if len(f) == 0 {
		return nil, fmt.Errorf("empty rate: write one as 60/m, 100/2s or 300/m burst 60 per tenant")
	}
	number, unit, ok := strings.Cut(f[0], "/")
	if !ok {
		return nil, fmt.Errorf("rate %q: no period: write it as 60/m or 100/2s", text)
	}
	p := Policy{Kind: Rate, Per: PerKey}
	var err error
	if p.Limit, err = parseCount(number); err != nil {
		return nil, fmt.Errorf("rate %q: %w", text, err)
	}
	if p.Period, err = parsePeriod(unit); err != nil {
		return nil, fmt.Errorf("rate %q: %w", text, err)
	}
	p.Burst, p.Name = p.Limit, strconv.FormatInt(p.Limit, 10)+"/"+unit
	rest := f[1:]
	if len(rest) >= 1 && rest[0] == "burst" {
		if len(rest) < 2 {
			return nil, fmt.Errorf("rate %q: burst needs a number", text)
		}
		if p.Burst, err = parseCount(rest[1]); err != nil {
			return nil, fmt.Errorf("rate %q: burst: %w", text, err)
		}
		rest = rest[2:]
	}
	if err := p.parsePer(rest); err != nil {
		return nil, fmt.Errorf("rate %q: %w", text, err)
	}
	return newPolicy(p), nil
}

// ParseQuota parses "<n>/day|month [per key|tenant|address]", with n from 1 to 1e12. The default
// is per tenant.
func ParseQuota(text string) (*Policy, error) {
	f := strings.Fields(text)
	if len(f) == 0 {
		return nil, fmt.Errorf("empty quota: write one as 100000/month or 5000/day per key")
	}
	p := Policy{Kind: Quota, Per: PerTenant}
	number, period, _ := strings.Cut(f[0], "/")
	switch period {
	case "day":
		p.Calendar = Day
	case "month":
		p.Calendar = Month
	default:
		return nil, fmt.Errorf("quota %q: a quota's period is day or month: write it as 5000/day or 100000/month", text)
	}
	var err error
	if p.Limit, err = parseCount(number); err != nil {
		return nil, fmt.Errorf("quota %q: %w", text, err)
	}
	p.Name = strconv.FormatInt(p.Limit, 10) + "/" + period
	if err := p.parsePer(f[1:]); err != nil {
		return nil, fmt.Errorf("quota %q: %w", text, err)
	}
	return newPolicy(p), nil
}

// ParseConcurrency parses "<n> [per key|tenant|address]", with n from 1 to 1e12. The default is
// per key.
func ParseConcurrency(text string) (*Policy, error) {
	f := strings.Fields(text)
	if len(f) == 0 {
		return nil, fmt.Errorf("empty concurrency: write it as 50 or 50 per tenant")
	}
	p := Policy{Kind: Concurrency, Per: PerKey, Name: "concurrency"}
	var err error
	if p.Limit, err = parseCount(f[0]); err != nil {
		return nil, fmt.Errorf("concurrency %q: %w", text, err)
	}
	if err := p.parsePer(f[1:]); err != nil {
		return nil, fmt.Errorf("concurrency %q: %w", text, err)
	}
	return newPolicy(p), nil
}

// ParseRates parses the text of a record: rates separated by commas, nil for empty text. Two
// policies of one name are an error.
func ParseRates(text string) ([]*Policy, error) { return parseList("rate", text, ParseRate) }

// ParseQuotas is ParseRates for quotas.
func ParseQuotas(text string) ([]*Policy, error) { return parseList("quota", text, ParseQuota) }

// ParseConcurrencies is ParseRates for concurrency limits.
func ParseConcurrencies(text string) ([]*Policy, error) {
	return parseList("concurrency", text, ParseConcurrency)
}

func parseList(kind, text string, parse func(string) (*Policy, error)) ([]*Policy, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	var out []*Policy
	for item := range strings.SplitSeq(text, ",") {
		p, err := parse(strings.TrimSpace(item))
		if err != nil {
			return nil, err
		}
		for _, q := range out {
			if q.Name == p.Name && q.Per == p.Per {
				return nil, fmt.Errorf("%s %q is stated twice", kind, p.Name)
			}
		}
		if len(out) == MaxLines {
			return nil, fmt.Errorf("more than %d %s limits in one list", MaxLines, kind)
		}
		out = append(out, p)
	}
	return out, nil
}

// Format returns the text of policies that ParseRates and its siblings parse.
func Format(policies []*Policy) string {
	var b strings.Builder
	for i, p := range policies {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(p.String())
	}
	return b.String()
}

// NewCredits returns the policy that takes each request's cost from the tenant's balance.
func NewCredits() *Policy {
	return newPolicy(Policy{Kind: Credits, Per: PerTenant, Name: "credits"})
}

// CreditsLimit returns the policy that limits how much of its tenant's balance one key may ever spend. A negative n counts
// as 0. Bind the policy only if credits are charged.
func CreditsLimit(n int64) *Policy {
	return newPolicy(Policy{Kind: Quota, Per: PerKey, Limit: max(n, 0), Calendar: Total, Name: "credits_limit"})
}

// String returns the policy's text, which the parsers turn into an equal policy.
func (p *Policy) String() string {
	name, suffix, _ := strings.Cut(p.Name, ";")
	switch {
	case p.Kind == Concurrency:
		name = strconv.FormatInt(p.Limit, 10)
	case p.Kind == Rate && p.Burst != p.Limit:
		name += " burst " + strconv.FormatInt(p.Burst, 10)
	case p.Reason() == Credits:
		return name
	}
	if suffix == "" && p.Kind == Quota && p.Per == PerKey {
		// The name of a quota has no suffix for "key", which is not a quota's default.
		suffix = "key"
	}
	if suffix != "" {
		name += " per " + suffix
	}
	return name
}

// parsePer parses the words after a limit's numbers: none, or "per" and a scope.
func (p *Policy) parsePer(f []string) error {
	if len(f) == 0 {
		return nil
	}
	if f[0] != "per" {
		return fmt.Errorf("%q is unexpected: only per key, per tenant or per address may follow", f[0])
	}
	if len(f) == 1 {
		return fmt.Errorf("the scope is missing: write per key, per tenant or per address")
	}
	per := slices.Index(perNames[1:], f[1]) + 1
	if per == 0 {
		return fmt.Errorf("per %q: it must be per key, per tenant or per address", f[1])
	}
	if p.Per = Per(per); p.Per != PerKey {
		p.Name += ";" + f[1]
	}
	if len(f) > 2 {
		return fmt.Errorf("%q is unexpected after per %s", f[2], f[1])
	}
	return nil
}

// parseCount parses a number from 1 to MaxLimit in plain digits.
func parseCount(s string) (int64, error) {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, fmt.Errorf("%q is not a whole number", s)
		}
	}
	if s == "" {
		return 0, fmt.Errorf("the number is missing")
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n > MaxLimit {
		return 0, fmt.Errorf("%s is more than %d", s, int64(MaxLimit))
	}
	if n < 1 {
		return 0, fmt.Errorf("the number must be at least 1")
	}
	return n, nil
}

// parsePeriod parses the text after a rate's slash.
func parsePeriod(s string) (time.Duration, error) {
	if d, ok := periods[s]; ok {
		return d, nil
	}
	bad := fmt.Errorf("period %q: it must be s, m, h, d or a duration such as 2s, 12h or 7d", s)
	for i := range len(s) {
		// The text becomes a part of the policy's name, and so of headers. So only characters of a
		// duration are allowed, without signs and the micro sign.
		if c := s[i]; (c < '0' || c > '9') && c != '.' && c != 'h' && c != 'm' && c != 's' && c != 'd' {
			return 0, bad
		}
	}
	var d time.Duration
	if n, ok := strings.CutSuffix(s, "d"); ok {
		days, err := strconv.ParseInt(n, 10, 64)
		if err != nil {
			return 0, bad
		}
		// The number of days is capped so that the product does not overflow. The check of the bounds below rejects the capped
		// number.
		d = time.Duration(min(days, 10_000)) * day
	} else {
		var err error
		if d, err = time.ParseDuration(s); err != nil {
			return 0, bad
		}
	}
	if d < MinPeriod || d > MaxPeriod {
		return 0, fmt.Errorf("period %s: it must be from 1ms to 366d", s)
	}
	return d, nil
}

// fixed is the part of a policy that its headers and limiters need, computed once.
type fixed struct {
	// quoted is the name as a string of RFC 9651.
	quoted string
	// item is the policy's member of RateLimit-Policy, without the window of a monthly quota and
	// without the balance of credits.
	item string
	// window in seconds; 0 for a month, and for policies without a window.
	window int64
	// perSecond is the number of tokens that a bucket gains in a second.
	perSecond float64
	// scale is the unit of a rate that several processes share.
	scale scale
}

func newPolicy(p Policy) *Policy {
	p.fixed = p.describe()
	return &p
}

// describe computes the fixed part.
func (p *Policy) describe() fixed {
	f := fixed{quoted: string(sfv.AppendString(nil, p.Name))}
	b := []byte(f.quoted)
	switch p.Kind {
	case Rate:
		f.perSecond = float64(p.Limit) / p.Period.Seconds()
		f.window = window(p)
		f.scale = *newScale(p)
		b = strconv.AppendInt(append(b, ";q="...), sfv.Integer(p.Burst), 10)
	case Quota:
		if p.Calendar == Day {
			f.window = int64(day / time.Second)
		}
		b = strconv.AppendInt(append(b, ";q="...), sfv.Integer(p.Limit), 10)
	case Concurrency:
		b = strconv.AppendInt(append(b, ";q="...), sfv.Integer(p.Limit), 10)
		b = append(b, `;qu="concurrent-requests"`...)
	case Credits:
		b = append(b, ";q="...)
	}
	if f.window > 0 {
		b = strconv.AppendInt(append(b, ";w="...), f.window, 10)
	}
	f.item = string(b)
	return f
}

// describedPart returns the computed part of a policy. For a Policy that no constructor made, it computes that part at each call.
func (p *Policy) describedPart() fixed {
	if p.fixed.quoted == "" {
		return p.describe()
	}
	return p.fixed
}

// sharedScale returns the unit of a rate that several processes share.
func (p *Policy) sharedScale() *scale {
	if p.fixed.quoted == "" {
		return newScale(p)
	}
	return &p.fixed.scale
}

// window returns the seconds in which an empty bucket fills, rounded up. A bucket of 60 that gains
// 300 a minute gives 60 again in 12 seconds, not in 60.
func window(p *Policy) int64 {
	if p.Limit < 1 || p.Period < 1 || p.Burst < 1 {
		return 0
	}
	hi, lo := bits.Mul64(uint64(p.Period), uint64(p.Burst))
	if hi >= uint64(p.Limit) {
		return sfv.MaxInteger
	}
	ns, rest := bits.Div64(hi, lo, uint64(p.Limit))
	if rest > 0 && ns < math.MaxUint64 {
		ns++
	}
	seconds := ns / uint64(time.Second)
	if ns%uint64(time.Second) > 0 {
		seconds++
	}
	return int64(min(seconds, sfv.MaxInteger))
}
