package rules

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Set is a compiled Config. Immutable, safe for concurrent use.
type Set struct {
	*Paths
	only, except              []line
	public, optional, protect []line
	// needs[i] is the scope of scopes[i], and prices[i] the cost of costs[i].
	scopes, costs []line
	needs         []uint64
	prices        []CostRule
	scopeDeny     bool
	// pathless reports whether no rule depends on the path. Every path is then forwarded as sent.
	pathless bool
	// caseless reports whether all lines are in lower case, so that a lower-case path needs no
	// folding.
	caseless bool
	// strictest is the verdict for a path that has too many interpretations.
	strictest Verdict
}

// New compiles c. bit returns the one-bit set of a scope's name, false for an unknown scope. It
// may be nil if c has no scope lines. Errors quote the line.
func New(c Config, bit func(scope string) (uint64, bool)) (*Set, error) {
	s := &Set{scopeDeny: c.ScopeDeny, caseless: true, pathless: c.Pathless()}
	var err error
	if s.Paths, err = NewPaths(c.Paths); err != nil {
		return nil, fmt.Errorf("paths: %w", err)
	}
	// A pattern may have one class, one scope and one cost.
	var classes, scopes, costs, only, except seen
	for _, kind := range []struct {
		name     string
		patterns []Pattern
		lines    *[]line
		seen     *seen
	}{
		{"only", c.Only, &s.only, &only},
		{"except", c.Except, &s.except, &except},
		{"public", c.Public, &s.public, &classes},
		{"optional", c.Optional, &s.optional, &classes},
		{"protect", c.Protect, &s.protect, &classes},
	} {
		for _, p := range kind.patterns {
			text := kind.name + " " + p.String()
			l, err := compile(p)
			if err == nil {
				err = kind.seen.add(p, text)
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", text, err)
			}
			*kind.lines = append(*kind.lines, l)
			s.caseless = s.caseless && l.caseless(p)
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
		s.scopes, s.needs = append(s.scopes, l), append(s.needs, need)
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
		s.costs, s.prices = append(s.costs, l), append(s.prices, r)
		s.caseless = s.caseless && l.caseless(r.Pattern)
	}
	s.strictest = s.allLines()
	return s, nil
}

// seen maps patterns to the text of their lines.
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

// allLines returns the verdict for a path that every line matches.
func (s *Set) allLines() Verdict {
	v := Verdict{Class: Default, Deny: s.scopeDeny, Cost: 1}
	if len(s.protect) > 0 {
		v.Class = Protected
	}
	for _, need := range s.needs {
		v.Need |= need
	}
	for i := range s.prices {
		v.charge(&s.prices[i])
	}
	return v
}

// Costs returns a copy of the cost lines in their order, for checks against quotas.
func (s *Set) Costs() []CostRule {
	out := slices.Clone(s.prices)
	for i := range out {
		out[i].Methods = slices.Clone(out[i].Methods)
	}
	return out
}

// Canonicalize returns the path of u for Evaluate. With exempt, an exception of `paths` applies to
// every path.
func (s *Set) Canonicalize(u *url.URL, exempt bool) Path {
	if s.pathless {
		return Path{Escaped: u.EscapedPath(), AsSent: true}
	}
	return s.Paths.Canonicalize(u, exempt)
}

// Evaluate returns what the rules require of a request. path must come from Canonicalize and must
// not be Rejected. Evaluate does not allocate for a path without escapes.
func (s *Set) Evaluate(method string, path *Path) Verdict {
	switch {
	case s.pathless:
		return Verdict{Class: Default, Deny: s.scopeDeny, Cost: 1}
	case path.strictest:
		return s.strictest
	}
	v := s.evaluate(method, path)
	if strings.EqualFold(method, "CONNECT") {
		// Caddy turns an HTTP/2 WebSocket's extended CONNECT (RFC 8441) into a GET.
		v.Add(s.evaluate("GET", path))
	}
	return v
}

func (s *Set) evaluate(method string, path *Path) Verdict {
	if path.interpretations == nil {
		return s.evaluateOne(method, path.match, path.alternatives)
	}
	v := s.evaluateOne(method, path.interpretations[0], nil)
	for _, path := range path.interpretations[1:] {
		v.Add(s.evaluateOne(method, path, nil))
	}
	return v
}

// evaluateOne returns the verdict for one path in matching form and its alternatives.
func (s *Set) evaluateOne(method, path string, alternatives []string) Verdict {
	var few [maxNames]string
	names := appendNames(few[:0], path)
	for _, f := range alternatives {
		names = appendNames(names, f)
	}
	each := comparer{method: method, folding: !s.caseless || !lowerCase(method, path) || alternatives != nil}
	if !s.within(&each, path, names) {
		return Verdict{Class: Public, Outside: true, Cost: 1}
	}
	v := Verdict{Class: s.class(&each, path, names), Cost: -1}
	matchLines(s.scopes, &each, path, names, func(i int) {
		if i < 0 {
			v.Deny = s.scopeDeny
		} else {
			v.Need |= s.needs[i]
		}
	})
	matchLines(s.costs, &each, path, names, func(i int) {
		if i < 0 {
			v.Cost = max(v.Cost, 1)
		} else {
			v.charge(&s.prices[i])
		}
	})
	return v
}

// matchLines calls found with the index of the first line that matches each name of path without a
// trailing slash. If path has a trailing slash, or no line matches without one, it does the same
// for the name with a slash. If no line matches path as written, it calls found with -1.
func matchLines(lines []line, w *comparer, path string, names []string, found func(i int)) {
	if len(lines) == 0 {
		found(-1)
		return
	}
	slashed := strings.HasSuffix(path, "/")
	for n, name := range names {
		plain, slash := first(lines, w.method, name, slashed, false)
		if n == 0 && (slashed && slash < 0 || !slashed && plain < 0) {
			found(-1)
		}
		foldedPlain, foldedSlash := -1, -1
		if w.folding {
			if !ascii(name) {
				name = fold(name)
			}
			foldedPlain, foldedSlash = first(lines, w.method, name, slashed, true)
		}
		for _, i := range [...]int{plain, slash, foldedPlain, foldedSlash} {
			if i >= 0 {
				found(i)
			}
		}
	}
}

// first returns the indexes of the first lines that match name without a slash and with one; -1
// for none. The root, "", has no form without a slash.
func first(lines []line, method, name string, slashed, folded bool) (plain, slash int) {
	plain, slash = -1, -1
	if name != "" {
		plain = firstOf(lines, method, name, false, folded)
	}
	if slashed || plain < 0 {
		slash = firstOf(lines, method, name, true, folded)
	}
	return plain, slash
}

func firstOf(lines []line, method, name string, slash, folded bool) int {
	for i := range lines {
		if lines[i].matchesName(method, name, slash, folded) {
			return i
		}
	}
	return -1
}

// comparer compares names with lines in each way: with and without a trailing slash, and with and
// without regard to case.
type comparer struct {
	method string
	// folding reports whether folding the case can make a difference.
	folding bool
}

// any calls the function try with each form of name, with and without a trailing slash and in both cases, until try returns
// true. It reports whether try returned true. The empty name stands for the root path, which has no form without a slash.
func (w *comparer) any(name string, try func(slash, folded bool, name string) bool) bool {
	if name != "" && try(false, false, name) || try(true, false, name) {
		return true
	}
	if !w.folding {
		return false
	}
	if !ascii(name) {
		name = fold(name)
	}
	return name != "" && try(false, true, name) || try(true, true, name)
}

// within reports whether the directive's matcher accepts the path under at least one of its names.
func (s *Set) within(w *comparer, path string, names []string) bool {
	if len(s.only) == 0 && len(s.except) == 0 {
		return true
	}
	if (len(s.only) == 0 || anyMatchesName(s.only, w.method, path, false, false)) && !anyMatches(s.except, w.method, path, false) {
		return true
	}
	if anyMatches(s.except, w.method, path, true) {
		return false
	}
	inside := func(slash, folded bool, name string) bool {
		return (len(s.only) == 0 || anyMatchesName(s.only, w.method, name, slash, folded)) &&
			!anyMatchesName(s.except, w.method, name, false, folded) && !anyMatchesName(s.except, w.method, name, true, folded)
	}
	for _, name := range names {
		if w.any(name, inside) {
			return true
		}
	}
	return false
}

// class returns the Class of the path. `protect` applies to every name of the path. But a public
// line without a wildcard names the path exactly, so it outweighs a `protect` line that matches
// only a derived name.
func (s *Set) class(w *comparer, path string, names []string) Class {
	optional := anyMatches(s.optional, w.method, path, false)
	if len(s.protect) > 0 {
		protect := func(slash, folded bool, name string) bool {
			return anyMatchesName(s.protect, w.method, name, slash, folded)
		}
		if anyMatchesName(s.protect, w.method, path, false, false) {
			return Protected
		}
		if !anyMatches(s.public, w.method, path, true) {
			for _, name := range names {
				if w.any(name, protect) {
					return Protected
				}
			}
		}
		if optional {
			// All other paths are public. Optional is stricter than public, so Optional applies.
			return Optional
		}
		return Public
	}
	switch {
	case optional:
		return Optional
	case anyMatches(s.public, w.method, path, false):
		return Public
	}
	return Default
}

// charge adds the cost line of one interpretation to v.
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

// Add makes v at least as strict as w.
func (v *Verdict) Add(w Verdict) {
	v.Class = max(v.Class, w.Class)
	v.Outside = v.Outside && w.Outside
	v.Need |= w.Need
	v.Deny = v.Deny || w.Deny
	v.charge(w.Rule)
	v.Cost = max(v.Cost, w.Cost)
}

func anyMatchesName(lines []line, method, name string, slash, folded bool) bool {
	return firstOf(lines, method, name, slash, folded) >= 0
}

// anyMatches reports whether one of lines matches path. With exact, only lines without a wildcard
// count.
func anyMatches(lines []line, method, path string, exact bool) bool {
	for i := range lines {
		if l := &lines[i]; !(exact && l.wild) && l.matches(method, path) {
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

// lowerCase reports whether folding changes neither path nor method: the path is ASCII without
// capital letters, and the method has no lower-case letters.
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
