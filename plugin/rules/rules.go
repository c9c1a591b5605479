// Package rules says what a path asks of a request: whether a key is needed, which
// scopes, and what it costs.
//
// Nobody in front of an upstream knows how that upstream reads a path: whether it
// folds case, decodes %2f, cleans dots, or drops ";parameters". So every path is read
// several ways, and the strictest reading wins: a protected path never becomes public
// by spelling.
package rules

import "net/url"

// Class says whether a request needs a key. Ordered: a larger Class is stricter.
type Class uint8

const (
	// Public needs no key, judges none and passes no context.
	Public Class = iota
	// Optional passes without a key; one that is sent must be valid.
	Optional
	// Default is what no rule names: a key is needed, unless protect rules exist.
	Default
	// Protected needs a key by name.
	Protected
)

// Pattern is one `public`, `optional`, `protect`, `scope` or `cost` line.
type Pattern struct {
	// Methods the line holds for; empty: all. GET covers HEAD.
	Methods []string `json:"methods,omitempty"`
	// Path as Caddy's path matcher takes it: exact, "prefix*", "*suffix", "*middle*", and "*" inside a segment.
	Path string `json:"path"`
}

// ScopeRule is a `scope` line.
type ScopeRule struct {
	Pattern
	Scope string `json:"scope"`
}

// CostRule is a `cost` line.
type CostRule struct {
	Pattern
	Cost int64 `json:"cost"`
	// Refund gives the cost back when the upstream answers 5xx.
	Refund bool `json:"refund,omitempty"`
	// Actual names the upstream's response header or trailer that settles the real cost.
	Actual string `json:"actual,omitempty"`
}

// Config is the rules of one directive.
type Config struct {
	Public   []Pattern   `json:"public,omitempty"`
	Optional []Pattern   `json:"optional,omitempty"`
	Protect  []Pattern   `json:"protect,omitempty"`
	Scopes   []ScopeRule `json:"scopes,omitempty"`
	Costs    []CostRule  `json:"costs,omitempty"`
	// ScopeDeny refuses what no scope line names: `scope_default deny`.
	ScopeDeny bool `json:"scope_deny,omitempty"`
}

// Set is compiled rules. Immutable, safe for concurrent use.
type Set struct{}

// Verdict is what a Set says of one request.
type Verdict struct {
	Class Class
	// Need is the scopes that must all be held, one bit each as bit returned them.
	Need uint64
	// Deny says that no scope line matched and the rules refuse that.
	Deny bool
	// Cost is the dearest reading's; 1 where no line matched.
	Cost int64
	// Rule is the cost line that gave Cost; nil for the default.
	Rule *CostRule
}

// New compiles c. bit maps a scope's name to its one-bit set and says whether it
// exists. Errors name the offending line's text.
func New(c Config, bit func(scope string) (uint64, bool)) (*Set, error) { panic("x") }

// Judge reads u every way an upstream might and returns the strictest verdict. It does not
// allocate for paths that need no decoding or cleaning. method is the request's.
func (s *Set) Judge(method string, u *url.URL) Verdict { panic("x") }
