package gateway

// Reason is the result of a request: Allowed, or why it was rejected. Its name appears in answers,
// logs, metrics and usage.
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
	// AmbiguousPath is decided by the path alone, before every other check.
	AmbiguousPath

	// NumReasons is one more than the largest Reason, for arrays indexed by it.
	NumReasons
)

// reasons defines the name, the HTTP answer and the console texts of each reason. A new reason needs a constant, a row in
// reasons, and a check that returns it.
var reasons = [NumReasons]struct {
	name    string
	status  int
	message string
	// title is a short name for people; help says how to resolve the problem.
	title, help string
	// limit reports whether a rate, a quota, a concurrency limit or credits gave the reason.
	limit bool
}{
	Allowed: {"allowed", 200, "",
		"Allowed", "The request passed.", false},
	MissingKey: {"missing_key", 401, "API key required.",
		"No key", "Send the key in the place that the curl example shows.", false},
	MalformedKey: {"malformed_key", 401, "Invalid API key format.",
		"Malformed key", "The credential does not have the shape of a key. It was probably cut or changed when it was copied: copy it again, or rotate the key.", false},
	InvalidKey: {"invalid_key", 401, "Invalid API key.",
		"Unknown key", "No key like this exists. It may have been deleted, rotated without grace, or be of another environment or product.", false},
	RevokedKey: {"revoked_key", 401, "API key has been revoked.",
		"Revoked key", "The key was revoked, which can't be undone. Create another one.", false},
	DisabledKey: {"disabled_key", 401, "API key is disabled.",
		"Disabled key", "Enable the key to let its requests pass again.", false},
	ExpiredKey: {"expired_key", 401, "API key has expired.",
		"Expired key", "Give the key a later expiry, or create another one.", false},
	AmbiguousKey: {"ambiguous_key", 400, "More than one API key was sent.",
		"Two keys", "The request held two different keys. Send one.", false},
	TenantInactive: {"tenant_inactive", 403, "Tenant is inactive.",
		"Tenant suspended", "The tenant is suspended. An operator can let it return.", false},
	PlanNotAllowed: {"plan_not_allowed", 403, "API access is not part of the tenant's plan.",
		"Not in the plan", "The tenant's plan has no API access. Another plan is needed.", false},
	InsufficientScope: {"insufficient_scope", 403, "API key lacks a required scope.",
		"Scope missing", "The key lacks a scope that this path asks for. Edit the key's scopes, as far as the plan allows them.", false},
	IPNotAllowed: {"ip_not_allowed", 403, "API key is not allowed from this address.",
		"Address not allowed", "The request came from an address that the key does not allow. Edit the key's allowed addresses.", false},
	CreditsExhausted: {"credits_exhausted", 402, "Credit balance is used up.",
		"Credits used up", "The balance, or the key's own limit of credits, does not cover the request's cost.", true},
	RateLimited: {"rate_limited", 429, "Rate limit exceeded.",
		"Rate limited", "More requests came than the rate allows. Wait for the time in Retry-After, or spread requests out.", true},
	QuotaExceeded: {"quota_exceeded", 429, "Quota exceeded.",
		"Quota used up", "The quota of this day or month is spent. It begins again at midnight UTC or on the first of the month.", true},
	ConcurrencyExceeded: {"concurrency_exceeded", 429, "Too many concurrent requests.",
		"Too many at once", "Too many requests ran at the same time. Wait until some have ended.", true},
	TooManyFailures: {"too_many_failures", 429, "Too many failed attempts.",
		"Too many failures", "The address showed too many unknown keys.", false},
	Unavailable: {"unavailable", 503, "Key verification is temporarily unavailable.",
		"Unavailable", "Keys could not be checked for a moment. Try again; the overview shows what is wrong with the gateway.", false},
	AmbiguousPath: {"ambiguous_path", 400, "The request path is ambiguous.",
		"Ambiguous path", "The path can be read in more than one way. Send it without %2F, ';', a backslash, or a dot at the end of a segment.", false},
}

// String returns the reason's name as clients see it, "allowed" for Allowed.
func (r Reason) String() string {
	if r >= NumReasons {
		return "unknown"
	}
	return reasons[r].name
}

// Status returns the HTTP status that the reason answers with. A keyspace may set another one.
func (r Reason) Status() int { return reasons[r].status }

// Message returns the message that the reason answers with. A keyspace may set another one.
func (r Reason) Message() string { return reasons[r].message }

// Title returns a short name of the reason for people.
func (r Reason) Title() string { return reasons[r].title }

// Help returns what the client or the operator can do about the reason.
func (r Reason) Help() string { return reasons[r].help }

// IsLimit reports whether a rate, a quota, a concurrency limit or credits gave the reason, so that a
// Decision's Outcome names the policies.
func (r Reason) IsLimit() bool { return reasons[r].limit }

// ParseReason returns the reason of that name. It returns false for an unknown name and for "allowed".
func ParseReason(name string) (Reason, bool) {
	for r := MissingKey; r < NumReasons; r++ {
		if reasons[r].name == name {
			return r, true
		}
	}
	return 0, false
}
