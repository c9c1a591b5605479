// Package rules evaluates what a path asks of a request: whether it needs a key, which scopes it
// needs, and what it costs.
//
// A gateway that reads a path in another way than its upstream checks another request than the one
// that is carried out. So a path has one form, the canonical one: it is checked and it goes
// upstream, byte for byte. A path that may be read as another one even then is ambiguous, and is
// rejected, unless an exception of PathsConfig lets it pass as it came. Then every interpretation
// of the path is checked and the strictest verdict counts.
//
// Upstreams also know a path by other names: without regard to case, with and without the trailing
// slash, without an extension, behind a script such as "/index.php". `protect`, `scope` and `cost`
// hold for each of these names; `public` and `optional` hold for the path as written.
package rules

// Class states whether a request needs a key. Ordered: a larger Class is stricter.
type Class uint8

const (
	// Public needs no key, checks none and passes no context.
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
	// "*" inside a segment. Queries, fragments, placeholders, empty and dot segments are refused.
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
	// ScopeDeny rejects requests that match no scope line: `scope_default deny`.
	ScopeDeny bool `json:"scope_deny,omitempty"`
	// Only are the paths of the directive, as its matcher states them. Default: all.
	Only []Pattern `json:"only,omitempty"`
	// Except are the paths that the matcher leaves out. Default: none.
	Except []Pattern `json:"except,omitempty"`
	// Paths states where ambiguous paths may pass. Default: nowhere.
	Paths PathsConfig `json:"paths,omitzero"`
}

// Pathless reports whether no rule of c depends on the path.
func (c *Config) Pathless() bool {
	return len(c.Public)+len(c.Optional)+len(c.Protect)+len(c.Scopes)+len(c.Costs)+len(c.Only)+len(c.Except) == 0 && c.Paths.empty()
}

func (c *PathsConfig) empty() bool {
	return len(c.EncodedSlash)+len(c.Parameters)+len(c.AsSent) == 0 && !c.Report
}

// Verdict is what the rules of a Set ask of one request.
type Verdict struct {
	Class Class
	// Outside reports whether the directive's matcher leaves the request out. Nothing is checked.
	Outside bool
	// Need is the set of scopes that are all required, one bit each as given to New.
	Need uint64
	// Deny reports whether no scope line matched and the rules reject that.
	Deny bool
	// Cost is the highest cost of all interpretations; 1 where no line matched.
	Cost int64
	// Rule is the cost line that gave Cost, nil for the default. Where interpretations match
	// several lines, one that settles the Actual cost comes before one that does not, so that no
	// spelling escapes the settling.
	Rule *CostRule
}
