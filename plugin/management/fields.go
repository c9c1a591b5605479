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

// Bounds of what a record may hold.
const (
	MaxSlug        = 255
	MaxKeyName     = 100
	MaxTenantName  = 255
	MaxDescription = 1000
	MaxMetadata    = 8 << 10
	MaxAllowedIPs  = 100
	MaxReference   = 200
	// MaxCredits bounds balances and limits: the largest integer that every JSON
	// reader holds exactly.
	MaxCredits = 1<<53 - 1
)

// Optional is a field of a request: absent, null, or a value.
type Optional[T any] struct {
	Value T
	// Set says that the field was there.
	Set bool
	// Null says that it was null: an override is cleared, a default taken.
	Null bool
}

// Some returns a field that is there.
func Some[T any](v T) Optional[T] { return Optional[T]{Value: v, Set: true} }

// Null returns a field that is there and null.
func Null[T any]() Optional[T] { return Optional[T]{Set: true, Null: true} }

// TenantFields is what may be stated of a tenant. Absent fields take their default in a
// new tenant and stay as they are in an existing one.
type TenantFields struct {
	// Name is 1 to 255 characters. Default and null: the slug.
	Name Optional[string]
	// Plan is one of the keyspace's. Default and null: its default plan.
	Plan Optional[string]
	// Active is true unless stated.
	Active Optional[bool]
	// Credits is the balance to have; the difference is a movement in the ledger.
	Credits Optional[int64]
	// Rate, Quota and Concurrency replace the plan's lines of the kind; several rates or
	// quotas are joined with ", ". Null clears.
	Rate, Quota, Concurrency Optional[string]
	// Metadata is a JSON object of at most 8 KiB, replaced as a whole. Null: {}.
	Metadata Optional[json.RawMessage]
}

// KeyFields is what may be stated of a key.
type KeyFields struct {
	// Name is 1 to 100 characters, and needed in a new key.
	Name Optional[string]
	// Description is at most 1000 characters.
	Description Optional[string]
	// Scopes is within what the tenant's plan allows. Default and null: all the plan allows.
	Scopes Optional[[]string]
	// Environment is one of the keyspace's; it can't be changed later. Default and null: the first.
	Environment Optional[string]
	// ExpiresAt is in the future. Default and null: never.
	ExpiresAt Optional[time.Time]
	// AllowedIPs is addresses or CIDR blocks. Default, null and none: from anywhere.
	AllowedIPs Optional[[]string]
	// Rate, Quota and Concurrency are checked in addition to the plan's. Null clears.
	Rate, Quota, Concurrency Optional[string]
	// CreditsLimit bounds what the key may ever spend of its tenant's balance. Null: no bound.
	CreditsLimit Optional[int64]
	// Metadata as a tenant's.
	Metadata Optional[json.RawMessage]
}

// ValidSlug reports whether s may name a tenant: 1 to 255 of A-Za-z0-9_.-, but not "."
// or "..", which are no names in a path.
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

// Printable reports whether s is text of one line that shows as what it is: no control
// characters, no line separators, and nothing that reorders the text around it.
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

// CheckName adds the faults of a name.
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

// checkDescription notes what is wrong with a description, which may have line breaks.
func checkDescription(f *Faults, field, s string) {
	if utf8.RuneCountInString(s) > MaxDescription {
		f.Invalid(field, "must be at most %d characters", MaxDescription)
	} else if !Printable(strings.NewReplacer("\n", "", "\r", "", "\t", "").Replace(s)) {
		f.Invalid(field, "must not hold control characters other than line breaks and tabs")
	}
}

// checkMetadata returns metadata as it is stored: compact, nil when empty.
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

// checkCredits notes what is wrong with an amount that may be 0.
func checkCredits(f *Faults, field string, n int64) {
	if n < 0 || n > MaxCredits {
		f.Invalid(field, "must be between 0 and %d", int64(MaxCredits))
	}
}

// CheckExpiry returns an expiry as it is stored; zero for never.
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

// checkAllowedIPs returns the blocks in their canonical form: single addresses as
// blocks of one, host bits cleared, IPv4-mapped ones as IPv4, each once.
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
			// It names more than the mapped addresses, so it is none of them.
			return p, false
		}
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	return p.Masked(), true
}

// blockString writes a block as people do: a single address without its length.
func blockString(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// checkScopes notes scopes that the keyspace does not know, or that are beyond cap,
// and returns them, each once, in the keyspace's order.
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

// defaultScopes returns what a key gets that states no scopes: the plan's own as
// written, or all that stand highest where it has no cap.
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

// ParseDuration reads a duration as people write one for keys: Go's form ("24h",
// "1h30m", "30s"), which may begin with whole days ("90d", "1d12h"; a day is 24
// hours). Negative durations are errors.
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
