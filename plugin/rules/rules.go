// Package rules evaluates what a path requires of a request: whether it needs a key, which scopes
// it needs, and its cost.
//
// A gateway that reads a path in another way than its upstream checks another request than the one
// that the upstream runs. So a path has one form, the canonical one: the rules check it, and the
// upstream gets it, byte for byte. A path that may still be read as another one is ambiguous. It
// is rejected, unless an exception of PathsConfig forwards it as sent. Then every interpretation
// of the path is checked, and the strictest verdict counts.
//
// Upstreams also know a path by other names: without regard to case, with and without the trailing
// slash, without an extension, or after a script such as "/index.php". `protect`, `scope` and
// `cost` apply to each of these names; `public` and `optional` apply to the path as written.
package rules

// Class states whether a request needs a key. A larger Class is stricter.
type Class uint8

const (
	// Public needs no key, checks none, and passes no context to the upstream.
	Public Class = iota
	// Optional allows requests without a key; a key that is sent must be valid.
	Optional
	// Default is the class of paths without a rule. Such a path needs a key, unless the configuration has protect lines.
	Default
	// Protected needs a key because of a protect rule.
	Protected
)

// String returns the class as written in a Caddyfile, "default" for Default.
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

// MaxCost is the largest cost of a line.
const MaxCost = 1_000_000_000

// Pattern is one `public`, `optional`, `protect`, `scope` or `cost` line.
type Pattern struct {
	// Methods are the methods that the line applies to, in upper case; empty: all. GET includes
	// HEAD.
	Methods []string `json:"methods,omitempty"`
	// Path is a pattern of Caddy's path matcher: exact, "prefix*", "*suffix", "*middle*", or with
	// "*" inside a segment. New rejects queries, fragments, placeholders, empty and dot segments.
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
	// Refund refunds the cost when the upstream answers 5xx.
	Refund bool `json:"refund,omitempty"`
	// Actual is the name of the upstream's response header or trailer with the actual cost.
	Actual string `json:"actual,omitempty"`
	// Max is charged instead of Cost if the client left and the actual cost did not come within 30 s or 8 MiB. 0: Cost.
	Max int64 `json:"max,omitempty"`
}

// Config is the rules of one directive. The order matters only for Scopes and Costs, whose first
// match counts.
type Config struct {
	Public   []Pattern   `json:"public,omitempty"`
	Optional []Pattern   `json:"optional,omitempty"`
	Protect  []Pattern   `json:"protect,omitempty"`
	Scopes   []ScopeRule `json:"scopes,omitempty"`
	Costs    []CostRule  `json:"costs,omitempty"`
	// ScopeDeny rejects requests that match no scope line: `scope_default deny`.
	ScopeDeny bool `json:"scope_deny,omitempty"`
	// Only are the paths of the directive, as stated by its matcher. Default: all.
	Only []Pattern `json:"only,omitempty"`
	// Except are the paths that the matcher excludes. Default: none.
	Except []Pattern `json:"except,omitempty"`
	// Paths states which paths are forwarded as sent. Default: none.
	Paths PathsConfig `json:"paths,omitzero"`
}

// Pathless reports whether no rule of c depends on the path.
func (c *Config) Pathless() bool {
	return len(c.Public)+len(c.Optional)+len(c.Protect)+len(c.Scopes)+len(c.Costs)+len(c.Only)+len(c.Except) == 0 && c.Paths.empty()
}

func (c *PathsConfig) empty() bool {
	return len(c.EncodedSlash)+len(c.Parameters)+len(c.AsSent) == 0 && !c.Report
}

// Verdict is what the rules of a Set require of one request.
type Verdict struct {
	Class Class
	// Outside reports whether the directive's matcher excludes the request, so that nothing is
	// checked.
	Outside bool
	// Need is the set of required scopes, in the bits that New got.
	Need uint64
	// Deny reports whether no scope line matched and Config.ScopeDeny is set.
	Deny bool
	// Cost is the highest cost of all interpretations; 1 if no line matched.
	Cost int64
	// Rule is the cost line of the request, nil for the default cost. If interpretations match
	// several lines, one with an Actual cost is preferred, so that no spelling of a path evades
	// it.
	Rule *CostRule
}
