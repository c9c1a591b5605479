package gateway

import (
	"hash/maphash"
	"sync/atomic"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

// Plan is a plan that tenants can have, as the configuration states it. Immutable.
type Plan struct {
	Name string
	// Deny rejects every request of the plan's tenants.
	Deny bool
	// Observe lets requests pass that would be rejected; they are still checked and counted.
	Observe bool
	// MaxKeys caps a tenant's active keys. 0: no cap.
	MaxKeys int
	// Scopes are the only scopes that the plan's keys can use. nil: all.
	Scopes []string
	// Cap is Scopes as a set, together with the scopes that these include. It holds all scopes if Scopes is nil.
	Cap ScopeSet
	// Limits are the plan's rates, quotas and concurrency limits, and a policy of kind Credits if
	// the plan states `credits`; in the order written.
	Limits []*ratelimit.Policy
	// OnRedisDown is the rule while Redis is unreachable: "local", "open" or "closed".
	OnRedisDown string
	// OnLeak is the reaction to a key that is reported as leaked: "revoke", "disable" or "report",
	// which only records it. Empty means "report".
	OnLeak string
	// Was holds former plan names. Tenants of these plans get this plan.
	Was []string
}

// outage returns OnRedisDown as a limiter's rule.
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

// Scopes are the scopes of a keyspace. Immutable.
type Scopes struct {
	// Names in the order written; a name's index is its bit.
	Names []string
	// Cumulative reports that each scope includes those after it (`admin > deployment > free`).
	Cumulative bool
}

// Bit returns the set that holds only the named scope; false if there is no such scope.
func (s *Scopes) Bit(name string) (ScopeSet, bool) {
	for i, n := range s.Names {
		if n == name {
			return 1 << i, true
		}
	}
	return 0, false
}

// Closure returns the set of the named scopes and of all that they include. It ignores names that
// the keyspace does not have (any more).
func (s *Scopes) Closure(names []string) ScopeSet {
	var set ScopeSet
	for _, n := range names {
		b, ok := s.Bit(n)
		if !ok {
			continue
		}
		if s.Cumulative {
			// The set holds the bit of the named scope and the bits of all later scopes.
			b = s.All() &^ (b - 1)
		}
		set |= b
	}
	return set
}

// All returns the set of every scope.
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

// Refusal is the HTTP answer for one reason in a keyspace.
type Refusal struct {
	Status  int
	Code    string
	Message string
}

// Keyspace is one product's configuration: its key formats, plans, scopes and error texts.
// Immutable once a View has it. The store holds its tenants and keys under its name.
type Keyspace struct {
	Name string
	// Grammar defines the formats of issued and accepted keys.
	Grammar *apikey.Grammar
	// Places are the parts of a request that can hold a credential.
	Places *apikey.Places
	Scopes Scopes
	Plans  map[string]*Plan
	// PlanOrder is the names of Plans in the order written.
	PlanOrder   []string
	DefaultPlan string
	// Failures is the rate of unknown keys that one address may send; nil for no limit.
	Failures *ratelimit.Policy
	// Refusals are the answers by reason, with defaults filled in.
	Refusals [NumReasons]Refusal

	// salt distinguishes equal digests of two keyspaces in the cache. Set by NewView.
	salt uint64
}

// View is one compiled configuration. Handlers pass the view that they were provisioned with to Check. So a request that an
// old configuration still serves is checked by that old configuration. Immutable, except for its place in the order of
// views.
type View struct {
	Keyspaces map[string]*Keyspace
	// Hasher digests keys under the configured peppers.
	Hasher *apikey.Hasher
	// seq orders views. In Subject.Bind, the policies of a later view replace those of an earlier view.
	seq atomic.Int64
}

// Renew makes v the newest view. Call Renew when a newer view is abandoned after it has checked requests. The limits of v
// then replace the limits that the abandoned view has bound to keys.
func (v *View) Renew() { v.seq.Store(viewSeq.Add(1)) }

// Newer reports whether v was made, or renewed, after other.
func (v *View) Newer(other *View) bool { return v.seq.Load() > other.seq.Load() }

// saltSeed gives a keyspace the same salt in every view of this process.
var saltSeed = maphash.MakeSeed()

// viewSeq numbers the views of this process.
var viewSeq atomic.Int64

// NewView returns a view of the keyspaces, which is newer than all earlier ones. It does not
// block.
func NewView(hasher *apikey.Hasher, keyspaces ...*Keyspace) *View {
	v := &View{Keyspaces: make(map[string]*Keyspace, len(keyspaces)), Hasher: hasher}
	v.Renew()
	for _, ks := range keyspaces {
		ks.salt = maphash.String(saltSeed, ks.Name)
		v.Keyspaces[ks.Name] = ks
	}
	return v
}
