package rules

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Set is compiled rules. Immutable, safe for concurrent use.
type Set struct {
	public, optional, protect []line
	// protectMore are the protect lines once more, as they read a path to which an
	// upstream adds a trailing slash.
	protectMore []line
	scopes      []scopeLine
	costs       []costLine
	scopeDeny   bool
	// caseless says that no scope or cost line tells case apart from a lower-case path.
	caseless bool
	// strictest is the verdict on a path that can't be read with confidence.
	strictest Verdict
}

type scopeLine struct {
	line
	need uint64
}

type costLine struct {
	line
	rule CostRule
}

// New compiles c. bit maps a scope's name to its one-bit set and says whether it
// exists; it may be nil where c has no scope lines. Errors name the offending line's text.
func New(c Config, bit func(scope string) (uint64, bool)) (*Set, error) {
	s := &Set{scopeDeny: c.ScopeDeny, caseless: true}
	// Whether a key is needed is said once for a pattern; so are its scope and its cost.
	var classes, scopes, costs seen
	for _, kind := range []struct {
		name     string
		patterns []Pattern
		lines    *[]line
	}{
		{"public", c.Public, &s.public},
		{"optional", c.Optional, &s.optional},
		{"protect", c.Protect, &s.protect},
	} {
		for _, p := range kind.patterns {
			text := kind.name + " " + p.String()
			l, err := compile(p)
			if err == nil {
				err = classes.add(p, text)
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", text, err)
			}
			*kind.lines = append(*kind.lines, l)
		}
	}
	for _, l := range s.protect {
		if p, ok := l.folded.slashAdded(); ok {
			s.protectMore = append(s.protectMore, line{methods: l.methods, folded: p})
		}
	}
	for _, r := range c.Scopes {
		text := "scope " + r.Pattern.String() + " " + r.Scope
		l, err := compile(r.Pattern)
		if err == nil {
			err = scopes.add(r.Pattern, text)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", text, err)
		}
		need, ok := uint64(0), false
		if bit != nil {
			need, ok = bit(r.Scope)
		}
		if !ok {
			return nil, fmt.Errorf("%s: there is no scope %q; name it in `scopes`", text, r.Scope)
		}
		s.scopes = append(s.scopes, scopeLine{l, need})
		s.caseless = s.caseless && l.caseless(r.Pattern)
	}
	for _, r := range c.Costs {
		text := "cost " + r.Pattern.String() + " " + strconv.FormatInt(r.Cost, 10)
		l, err := compile(r.Pattern)
		if err == nil {
			err = costs.add(r.Pattern, text)
		}
		if err == nil && (r.Cost < 0 || r.Cost > MaxCost) {
			err = fmt.Errorf("a cost is from 0 to %d", MaxCost)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", text, err)
		}
		r.Methods = l.methods
		s.costs = append(s.costs, costLine{l, r})
		s.caseless = s.caseless && l.caseless(r.Pattern)
	}
	s.strictest = s.allLines()
	return s, nil
}

// seen remembers lines by their pattern.
type seen map[string]string

func (s *seen) add(p Pattern, text string) error {
	methods := slices.Sorted(slices.Values(p.Methods))
	key := strings.Join(methods, ",") + " " + p.Path
	if earlier, ok := (*s)[key]; ok {
		if earlier == text {
			return fmt.Errorf("the same line stands twice")
		}
		return fmt.Errorf("contradicts the line %q", earlier)
	}
	if *s == nil {
		*s = make(seen)
	}
	(*s)[key] = text
	return nil
}

// allLines returns the verdict as if every line had matched some reading.
func (s *Set) allLines() Verdict {
	v := Verdict{Class: Default, Deny: s.scopeDeny, Cost: 1}
	if len(s.protect) > 0 {
		v.Class = Protected
	}
	for i := range s.scopes {
		v.Need |= s.scopes[i].need
	}
	for i := range s.costs {
		v.charge(&s.costs[i].rule)
	}
	return v
}

// Costs returns a copy of the cost lines in their order, so that they can be checked
// against quotas.
func (s *Set) Costs() []CostRule {
	out := make([]CostRule, len(s.costs))
	for i := range s.costs {
		out[i] = s.costs[i].rule
		out[i].Methods = slices.Clone(out[i].Methods)
	}
	return out
}

// Judge reads u every way an upstream might and returns the strictest verdict. It does not
// allocate for paths that need no decoding or cleaning. method is the request's.
func (s *Set) Judge(method string, u *url.URL) Verdict {
	var few [2]string
	paths, ok := readings(few[:0], u)
	if !ok {
		return s.strictest
	}
	v := s.judge(method, paths)
	if strings.EqualFold(method, "CONNECT") {
		// Caddy turns an HTTP/2 WebSocket's extended CONNECT (RFC 8441) into a GET.
		v.add(s.judge("GET", paths))
	}
	return v
}

func (s *Set) judge(method string, paths []string) Verdict {
	var (
		v                   = Verdict{Cost: -1}
		public, optional    = true, true
		protected, someOpen = false, false
	)
	for _, path := range paths {
		folded := path
		if !ascii(path) {
			folded = fold(path)
		}
		public = public && holds(s.public, method, path)
		optional = optional && holds(s.optional, method, path)
		if len(s.protect) > 0 {
			protected = protected || holdsFolded(s.protect, method, folded) || holdsFolded(s.protectMore, method, folded)
			someOpen = someOpen || holdsFolded(s.optional, method, folded)
		}
		s.demand(&v, method, path, folded)
	}
	switch {
	case protected:
		v.Class = Protected
	case len(s.protect) > 0 && someOpen:
		// Everything else being public, optional is the stricter one here.
		v.Class = Optional
	case len(s.protect) > 0:
		v.Class = Public
	case optional:
		v.Class = Optional
	case public:
		v.Class = Public
	default:
		v.Class = Default
	}
	return v
}

// demand adds to v the scope and cost of one reading: those of the first line that
// matches its case as written, and of the first that matches without regard to case.
func (s *Set) demand(v *Verdict, method, path, folded string) {
	both := !s.caseless || !lowerCase(method, path)
	if len(s.scopes) > 0 || s.scopeDeny {
		s.scope(v, method, path, false)
		if both {
			s.scope(v, method, folded, true)
		}
	}
	s.cost(v, method, path, false)
	if both && len(s.costs) > 0 {
		s.cost(v, method, folded, true)
	}
}

func (s *Set) scope(v *Verdict, method, path string, folded bool) {
	for i := range s.scopes {
		l := &s.scopes[i]
		if folded && l.holdsFolded(method, path) || !folded && l.holds(method, path) {
			v.Need |= l.need
			return
		}
	}
	v.Deny = v.Deny || s.scopeDeny
}

func (s *Set) cost(v *Verdict, method, path string, folded bool) {
	for i := range s.costs {
		l := &s.costs[i]
		if folded && l.holdsFolded(method, path) || !folded && l.holds(method, path) {
			v.charge(&l.rule)
			return
		}
	}
	v.Cost = max(v.Cost, 1)
}

// charge adds a reading's cost line to v.
func (v *Verdict) charge(r *CostRule) {
	switch {
	case r == nil:
	case v.Rule == nil, v.Rule.Actual == "" && r.Actual != "":
		v.Rule = r
	case v.Rule.Actual != "" && r.Actual == "":
	case r.Cost > v.Rule.Cost:
		v.Rule = r
	}
	if r != nil {
		v.Cost = max(v.Cost, r.Cost)
	}
}

// add makes v as strict as w where w is stricter.
func (v *Verdict) add(w Verdict) {
	v.Class = max(v.Class, w.Class)
	v.Need |= w.Need
	v.Deny = v.Deny || w.Deny
	v.charge(w.Rule)
	v.Cost = max(v.Cost, w.Cost)
}

func holds(lines []line, method, path string) bool {
	for i := range lines {
		if lines[i].holds(method, path) {
			return true
		}
	}
	return false
}

func holdsFolded(lines []line, method, path string) bool {
	for i := range lines {
		if lines[i].holdsFolded(method, path) {
			return true
		}
	}
	return false
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// lowerCase says whether folding changes neither path nor method: no capital in the
// ASCII path, none but capitals in the method.
func lowerCase(method, path string) bool {
	for i := range len(path) {
		if c := path[i]; c >= 'A' && c <= 'Z' || c >= utf8.RuneSelf {
			return false
		}
	}
	for i := range len(method) {
		if c := method[i]; c >= 'a' && c <= 'z' {
			return false
		}
	}
	return true
}
