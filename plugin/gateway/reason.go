package gateway

// Reason says why a request was refused, or that it was not. It is what clients,
// logs, metrics and usage call the outcome.
type Reason uint8

const (
	Allowed Reason = iota
	MissingKey
	MalformedKey
	InvalidKey
	RevokedKey
	DisabledKey
	ExpiredKey
	AmbiguousKey
	TenantInactive
	PlanNotAllowed
	InsufficientScope
	IPNotAllowed
	CreditsExhausted
	RateLimited
	QuotaExceeded
	ConcurrencyExceeded
	TooManyFailures
	Unavailable
	// AmbiguousPath is found before everything else, by the path alone.
	AmbiguousPath

	// NumReasons is one more than the largest Reason, for arrays indexed by it.
	NumReasons
)

// reasons is the one table of what each refusal is called, answers and says.
var reasons = [NumReasons]struct {
	name    string
	status  int
	message string
}{
	Allowed:             {"allowed", 200, ""},
	MissingKey:          {"missing_key", 401, "API key required."},
	MalformedKey:        {"malformed_key", 401, "Invalid API key format."},
	InvalidKey:          {"invalid_key", 401, "Invalid API key."},
	RevokedKey:          {"revoked_key", 401, "API key has been revoked."},
	DisabledKey:         {"disabled_key", 401, "API key is disabled."},
	ExpiredKey:          {"expired_key", 401, "API key has expired."},
	AmbiguousKey:        {"ambiguous_key", 400, "More than one API key was sent."},
	TenantInactive:      {"tenant_inactive", 403, "Tenant is inactive."},
	PlanNotAllowed:      {"plan_not_allowed", 403, "API access is not part of the tenant's plan."},
	InsufficientScope:   {"insufficient_scope", 403, "API key lacks a required scope."},
	IPNotAllowed:        {"ip_not_allowed", 403, "API key is not allowed from this address."},
	CreditsExhausted:    {"credits_exhausted", 402, "Credit balance is used up."},
	RateLimited:         {"rate_limited", 429, "Rate limit exceeded."},
	QuotaExceeded:       {"quota_exceeded", 429, "Quota exceeded."},
	ConcurrencyExceeded: {"concurrency_exceeded", 429, "Too many concurrent requests."},
	TooManyFailures:     {"too_many_failures", 429, "Too many failed attempts."},
	Unavailable:         {"unavailable", 503, "Key verification is temporarily unavailable."},
	AmbiguousPath:       {"ambiguous_path", 400, "The request path is ambiguous."},
}

// String returns the reason's name as clients see it, "allowed" for Allowed.
func (r Reason) String() string {
	if r >= NumReasons {
		return "unknown"
	}
	return reasons[r].name
}

// Status returns the HTTP status the reason answers with unless a keyspace says otherwise.
func (r Reason) Status() int { return reasons[r].status }

// Message returns what the reason says unless a keyspace says otherwise.
func (r Reason) Message() string { return reasons[r].message }

// ParseReason returns the reason with that name; false where there is none, and for "allowed".
func ParseReason(name string) (Reason, bool) {
	for r := MissingKey; r < NumReasons; r++ {
		if reasons[r].name == name {
			return r, true
		}
	}
	return 0, false
}
