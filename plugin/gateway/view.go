package gateway

import (
	"hash/maphash"
	"sync/atomic"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

// Plan is what a tenant bought, as the configuration states it. Immutable.
type Plan struct {
	Name string
	// Deny gives no API access at all.
	Deny bool
	// Observe checks and counts, but lets requests pass that would be rejected.
	Observe bool
	// MaxKeys caps a tenant's active keys. 0: no cap.
	MaxKeys int
	// Scopes caps what the plan's keys may do. nil: no cap.
	Scopes []string
	// Cap is Scopes as a set, with what each includes; all scopes when there is no cap.
	Cap ScopeSet
	// Limits are the plan's rates, quotas, concurrency limits and, where it states
	// `credits`, a policy of that kind; in the order written.
	Limits []*ratelimit.Policy
	// OnRedisDown is local, open or closed.
	OnRedisDown string
	// OnLeak is what happens to a key that is reported leaked: "revoke", "disable" or, as where it is
	// empty, "report", which only records it.
	OnLeak string
	// Was names former plans whose tenants this one takes over.
	Was []string
}

// outage returns OnRedisDown as a limiter takes it.
func (p *Plan) outage() ratelimit.Outage {
	switch p.OnRedisDown {
	case "open":
		return ratelimit.OutageOpen
	case "closed":
		return ratelimit.OutageClosed
	}
	return ratelimit.OutageLocal
}

// ScopeSet is a set of a keyspace's scopes, one bit each.
type ScopeSet uint64

// MaxScopes is how many scopes one keyspace may name.
const MaxScopes = 64

// Scopes are the scopes a keyspace knows. Immutable.
type Scopes struct {
	// Names in the order written; a name's index is its bit.
	Names []string
	// Cumulative reports that each scope includes those after it (`admin > deployment > free`).
	Cumulative bool
}

// Bit returns the set that holds only the named scope; false where there is no such scope.
func (s *Scopes) Bit(name string) (ScopeSet, bool) {
	for i, n := range s.Names {
		if n == name {
			return 1 << i, true
		}
	}
	return 0, false
}

// Closure returns the set of the named scopes and of all that they include. Names the
// keyspace does not know (any more) are left out: they give nothing.
func (s *Scopes) Closure(names []string) ScopeSet {
	var set ScopeSet
	for _, n := range names {
		b, ok := s.Bit(n)
		if !ok {
			continue
		}
		if s.Cumulative {
			// The scope's own bit and every later one.
			b = s.All() &^ (b - 1)
		}
		set |= b
	}
	return set
}

// All returns every scope.
func (s *Scopes) All() ScopeSet {
	return ^ScopeSet(0) >> (MaxScopes - len(s.Names))
}

// List returns the names in a set, in the order the keyspace wrote them.
func (s *Scopes) List(set ScopeSet) []string {
	var out []string
	for i, n := range s.Names {
		if set&(1<<i) != 0 {
			out = append(out, n)
		}
	}
	return out
}

// Refusal is how one reason answers in a keyspace.
type Refusal struct {
	Status  int
	Code    string
	Message string
}

// Keyspace is one product's configuration: its key shapes, plans, scopes and words.
// Immutable once a View carries it; tenants and keys are in the store under its name.
type Keyspace struct {
	Name string
	// Grammar is the shapes of keys issued and accepted.
	Grammar *apikey.Grammar
	// Places is where a request may hold a credential.
	Places *apikey.Places
	Scopes Scopes
	Plans  map[string]*Plan
	// PlanOrder is the names of Plans as written.
	PlanOrder   []string
	DefaultPlan string
	// Failures is the rate of unknown keys that one address may send; nil: no limit.
	Failures *ratelimit.Policy
	// Refusals by reason, defaults filled in.
	Refusals [NumReasons]Refusal

	// salt tells equal digests of two keyspaces apart in the cache. Set by NewView.
	salt uint64
}

// View is one configuration, compiled. Handlers carry the view they were provisioned
// with and pass it to Check, so requests that an old configuration still serves are
// checked by it. Immutable but for its order among views.
type View struct {
	Keyspaces map[string]*Keyspace
	// Hasher digests keys under the configured peppers.
	Hasher *apikey.Hasher
	// seq orders views: later ones win where bucket sizes are state (see Subject.Bind).
	seq atomic.Int64
}

// Renew makes v the newest view, for when a newer one was given up after requests were checked by
// it: v replaces the sizes that it left in the limits.
func (v *View) Renew() { v.seq.Store(viewSeq.Add(1)) }

// Newer reports whether v was made, or renewed, after other.
func (v *View) Newer(other *View) bool { return v.seq.Load() > other.seq.Load() }

// saltSeed makes keyspace salts the same in every view of this process.
var saltSeed = maphash.MakeSeed()

// viewSeq numbers the views of this process.
var viewSeq atomic.Int64

// NewView returns a view of the keyspaces, numbered after all earlier ones. Does not block.
func NewView(hasher *apikey.Hasher, keyspaces ...*Keyspace) *View {
	v := &View{Keyspaces: make(map[string]*Keyspace, len(keyspaces)), Hasher: hasher}
	v.Renew()
	for _, ks := range keyspaces {
		ks.salt = maphash.String(saltSeed, ks.Name)
		v.Keyspaces[ks.Name] = ks
	}
	return v
}
