package management

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

// These constants bound the fields of records.
const (
	MaxSlug        = 255
	MaxKeyName     = 100
	MaxTenantName  = 255
	MaxDescription = 1000
	MaxMetadata    = 8 << 10
	MaxAllowedIPs  = 100
	MaxReference   = 200
	// MaxCredits bounds balances and limits. It is the largest integer that every JSON reader
	// represents exactly.
	MaxCredits = 1<<53 - 1
)

// Optional is a field of a request, which is absent, null, or a value.
type Optional[T any] struct {
	Value T
	// Set reports whether the field is present.
	Set bool
	// Null reports whether the field is null. Null clears an override, or stands for the default.
	Null bool
}

// Some returns a present field with a value.
func Some[T any](v T) Optional[T] { return Optional[T]{Value: v, Set: true} }

// Null returns a present field that is null.
func Null[T any]() Optional[T] { return Optional[T]{Set: true, Null: true} }

// TenantFields are the fields of a tenant that a request may state. An absent field gets its
// default in a new tenant, and is unchanged in an existing one.
type TenantFields struct {
	// Name has 1 to 255 characters. Default and null: the slug.
	Name Optional[string]
	// Plan is a plan of the keyspace. Default and null: the keyspace's default plan.
	Plan Optional[string]
	// Active is true by default.
	Active Optional[bool]
	// Credits is the new balance. The difference to the old balance is a movement in the ledger.
	Credits Optional[int64]
	// Rate, Quota and Concurrency replace the plan's limits of that kind. Several rates or quotas
	// are joined with ", ". Null removes the override.
	Rate, Quota, Concurrency Optional[string]
	// Metadata is a JSON object of at most 8 KiB, which replaces the former one. Null: {}.
	Metadata Optional[json.RawMessage]
}

// KeyFields are the fields of a key that a request may state. Absent fields behave as in
// TenantFields.
type KeyFields struct {
	// Name has 1 to 100 characters. A new key needs one.
	Name Optional[string]
	// Description has at most 1000 characters.
	Description Optional[string]
	// Scopes are some of those that the tenant's plan allows. Default and null: all that the plan
	// allows.
	Scopes Optional[[]string]
	// Environment is one of the keyspace's environments. It can't be changed later. Default and
	// null: the first.
	Environment Optional[string]
	// ExpiresAt is in the future. Default and null: never.
	ExpiresAt Optional[time.Time]
	// AllowedIPs are addresses or CIDR blocks. Default, null and empty: every address is allowed.
	AllowedIPs Optional[[]string]
	// Rate, Quota and Concurrency are checked in addition to the plan's limits. Null removes the
	// limit.
	Rate, Quota, Concurrency Optional[string]
	// CreditsLimit bounds how many of its tenant's credits the key may ever spend. Null: no bound.
	CreditsLimit Optional[int64]
	// Metadata is a JSON object of at most 8 KiB, which replaces the former one. Null: {}.
	Metadata Optional[json.RawMessage]
}

// ValidSlug reports whether s is a valid slug: 1 to 255 of the characters A-Za-z0-9_.-, except "."
// and "..", which have another meaning in a path.
func ValidSlug(s string) bool {
	if s == "" || len(s) > MaxSlug || s == "." || s == ".." {
		return false
	}
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '.', c == '-':
		default:
			return false
		}
	}
	return true
}

// Printable reports whether s is one line of visible text: valid UTF-8 without control characters,
// line separators, or characters that reorder the text around them.
func Printable(s string) bool {
	for _, r := range s {
		switch {
		case unicode.IsControl(r), r == utf8.RuneError,
			r == '\u2028', r == '\u2029', r >= '\u202a' && r <= '\u202e', r >= '\u2066' && r <= '\u2069':
			return false
		}
	}
	return utf8.ValidString(s)
}

// CheckName records the faults of a name of at most most characters.
func CheckName(f *Faults, field, s string, most int) {
	switch {
	case strings.TrimSpace(s) == "":
		f.Invalid(field, "must not be empty")
	case utf8.RuneCountInString(s) > most:
		f.Invalid(field, "must be at most %d characters", most)
	case !Printable(s):
		f.Invalid(field, "must not hold control characters")
	}
}

// checkDescription records the faults of a description. It may have line breaks.
func checkDescription(f *Faults, field, s string) {
	if utf8.RuneCountInString(s) > MaxDescription {
		f.Invalid(field, "must be at most %d characters", MaxDescription)
	} else if !Printable(strings.NewReplacer("\n", "", "\r", "", "\t", "").Replace(s)) {
		f.Invalid(field, "must not hold control characters other than line breaks and tabs")
	}
}

// checkMetadata returns metadata in its stored form: compact, and nil when empty.
func checkMetadata(f *Faults, field string, o Optional[json.RawMessage]) json.RawMessage {
	if o.Null || len(o.Value) == 0 {
		return nil
	}
	var b bytes.Buffer
	if err := json.Compact(&b, o.Value); err != nil || b.Bytes()[0] != '{' {
		f.Invalid(field, "must be a JSON object")
		return nil
	}
	if b.Len() > MaxMetadata {
		f.Invalid(field, "must be at most %d bytes, is %d", MaxMetadata, b.Len())
		return nil
	}
	if b.String() == "{}" {
		return nil
	}
	return b.Bytes()
}

// checkCredits records the faults of an amount, which may be 0.
func checkCredits(f *Faults, field string, n int64) {
	if n < 0 || n > MaxCredits {
		f.Invalid(field, "must be between 0 and %d", int64(MaxCredits))
	}
}

// CheckExpiry returns an expiry with the precision of the store; the zero time for never.
func CheckExpiry(f *Faults, field string, o Optional[time.Time], now time.Time) time.Time {
	if o.Null {
		return time.Time{}
	}
	at := o.Value.UTC().Truncate(time.Microsecond)
	switch {
	case !at.After(now):
		f.Invalid(field, "must be in the future")
	case at.Year() > 9999:
		f.Invalid(field, "must be before the year 10000")
	}
	return at
}

// checkAllowedIPs returns the blocks in their canonical form. A single address becomes a block of
// one, host bits are cleared, IPv4-mapped addresses become IPv4, and duplicates are removed.
func checkAllowedIPs(f *Faults, field string, list []string) []netip.Prefix {
	if len(list) > MaxAllowedIPs {
		f.Invalid(field, "must be at most %d entries", MaxAllowedIPs)
		return nil
	}
	var out []netip.Prefix
	for i, s := range list {
		p, ok := parseBlock(s)
		if !ok {
			f.Invalid(Indexed(field, i), "must be an address or a CIDR block, such as 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32")
			continue
		}
		if !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

func parseBlock(s string) (netip.Prefix, bool) {
	var p netip.Prefix
	if strings.Contains(s, "/") {
		var err error
		if p, err = netip.ParsePrefix(s); err != nil {
			return p, false
		}
	} else {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			return p, false
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	if a := p.Addr(); a.Is4In6() {
		if p.Bits() < 96 {
			// A block wider than ::ffff:0:0/96 also contains addresses that are not IPv4-mapped.
			return p, false
		}
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	return p.Masked(), true
}

// blockString returns a block as text. A single address has no prefix length.
func blockString(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// checkScopes returns the scopes of list in the keyspace's order, without duplicates. It records a
// fault for each scope that the keyspace does not have or the plan does not allow.
func checkScopes(f *Faults, field string, ks *gateway.Keyspace, plan *gateway.Plan, list []string) []string {
	var set gateway.ScopeSet
	for i, s := range list {
		bit, ok := ks.Scopes.Bit(s)
		switch {
		case !ok && len(ks.Scopes.Names) == 0:
			f.Invalid(Indexed(field, i), "this keyspace has no scopes")
		case !ok:
			f.Invalid(Indexed(field, i), "is not a scope; the scopes are %s", strings.Join(ks.Scopes.Names, ", "))
		case ks.Scopes.Closure([]string{s})&^plan.Cap != 0:
			f.Add(CodeScopeNotAllowed, Indexed(field, i), "the plan %q does not allow the scope %q; it allows %s",
				plan.Name, s, OrNone(ks.Scopes.List(plan.Cap)))
		default:
			set |= bit
		}
	}
	return ks.Scopes.List(set)
}

// defaultScopes returns the scopes of a key that states none: the plan's scopes as configured. If
// the plan states none, they are the highest scope of a cumulative list, or else all scopes.
func defaultScopes(ks *gateway.Keyspace, plan *gateway.Plan) []string {
	switch {
	case plan.Scopes != nil:
		return slices.Clone(plan.Scopes)
	case ks.Scopes.Cumulative && len(ks.Scopes.Names) > 0:
		return []string{ks.Scopes.Names[0]}
	}
	return slices.Clone(ks.Scopes.Names)
}

func Indexed(field string, i int) string { return field + "/" + itoa(i) }

func OrNone(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}

// ParseDuration parses a duration in Go's form ("24h", "1h30m"), which may begin with whole days
// ("90d", "1d12h"). A day is 24 hours. A negative duration is an error.
func ParseDuration(s string) (time.Duration, error) {
	bad := fmt.Errorf("%q is not a duration: write it as 90d, 24h or 30s", s)
	rest := s
	var d time.Duration
	if days, after, ok := strings.Cut(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return 0, bad
		}
		d, rest = time.Duration(n)*24*time.Hour, after
		if rest == "" {
			return d, nil
		}
	}
	more, err := time.ParseDuration(rest)
	if err != nil || more < 0 || d+more < d {
		return 0, bad
	}
	return d + more, nil
}
