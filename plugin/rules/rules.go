// Package rules says what a path asks of a request: whether a key is needed, which
// scopes, and what it costs.
//
// Nobody in front of an upstream knows how that upstream reads a path: whether it
// folds case, decodes %2f, cleans dots, or drops ";parameters". So every path is read
// several ways, and the strictest reading wins: a protected path never becomes public
// by spelling.
//
// Two consequences are worth knowing when writing lines. A path with a trailing slash
// is also read without it, so "/app/*" alone does not make "/app/" public: an upstream
// may serve it as "/app", which the line does not name. Name both, "/app /app/*". And
// a path that nobody can read with confidence (see maxReadings and maxOddPath) is
// judged by the strictest of all lines.
package rules

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

// String returns the class's name as a Caddyfile spells it, "default" for Default.
func (c Class) String() string {
	switch c {
	case Public:
		return "public"
	case Optional:
		return "optional"
	case Default:
		return "default"
	case Protected:
		return "protect"
	}
	return "unknown"
}

// MaxCost is the largest cost that a line may state.
const MaxCost = 1_000_000_000

// Pattern is one `public`, `optional`, `protect`, `scope` or `cost` line.
type Pattern struct {
	// Methods the line holds for, upper case; empty: all. GET covers HEAD.
	Methods []string `json:"methods,omitempty"`
	// Path as Caddy's path matcher takes it: exact, "prefix*", "*suffix", "*middle*", and
	// "*" inside a segment. A "%2f" in it is compared as such. Queries, fragments,
	// placeholders and dot segments are refused.
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
	// Cost is from 0 to MaxCost.
	Cost int64 `json:"cost"`
	// Refund gives the cost back when the upstream answers 5xx.
	Refund bool `json:"refund,omitempty"`
	// Actual names the upstream's response header or trailer that settles the real cost.
	Actual string `json:"actual,omitempty"`
}

// Config is the rules of one directive. Order matters for Scopes and Costs, whose first
// match holds, and for nothing else.
type Config struct {
	Public   []Pattern   `json:"public,omitempty"`
	Optional []Pattern   `json:"optional,omitempty"`
	Protect  []Pattern   `json:"protect,omitempty"`
	Scopes   []ScopeRule `json:"scopes,omitempty"`
	Costs    []CostRule  `json:"costs,omitempty"`
	// ScopeDeny refuses what no scope line names: `scope_default deny`.
	ScopeDeny bool `json:"scope_deny,omitempty"`
}

// Verdict is what a Set says of one request.
type Verdict struct {
	Class Class
	// Need is the scopes that must all be held, one bit each as bit returned them.
	Need uint64
	// Deny says that no scope line matched and the rules refuse that.
	Deny bool
	// Cost is the dearest reading's; 1 where no line matched.
	Cost int64
	// Rule is the cost line that gave Cost; nil for the default. Where readings meet
	// several lines, one that settles the Actual cost comes before one that does not, so
	// that no spelling escapes the settling.
	Rule *CostRule
}
