package config

import (
	"github.com/keygate-dev/keygate/plugin/rules"
)

// HandlerConfig is the configuration of a `keygate` directive: the keyspace whose keys are
// checked, and the rules about paths.
type HandlerConfig struct {
	// Keyspace names the keyspace whose keys are checked. Default: the only keyspace if there is
	// one, else "default".
	Keyspace string `json:"keyspace,omitempty"`
	// StripOnly checks no key. The handler only removes headers that tell the upstream who the
	// caller is, and headers that make the upstream serve another path or method. It is for the
	// requests that a checking handler's matcher excludes; Keyspace, AllowUpgrade and
	// MethodOverride equal that handler's. Default: false.
	StripOnly bool `json:"strip_only,omitempty"`
	// Config holds the rules about paths: public, optional, protect, scopes, costs and scope_deny
	// are fields of the handler itself. Default: every path needs a key, any valid key is enough,
	// and a request costs 1.
	rules.Config
	// AllowUpgrade are the paths on which unchecked requests may ask for another protocol, such as
	// WebSockets. The patterns name no methods. Default: none.
	AllowUpgrade []rules.Pattern `json:"allow_upgrade,omitempty"`
	// Observe checks, counts and logs requests that the handler would reject, but lets them pass.
	// Default: false.
	Observe bool `json:"observe,omitempty"`
	// ForwardCredential leaves the key in the request, so that the upstream sees it. Default:
	// false.
	ForwardCredential bool `json:"forward_credential,omitempty"`
	// MethodOverride is "check" or "pass". "check" removes headers that make an upstream serve
	// another path or method than the checked one. If the rules differ by method, a POST whose
	// query or body names another method in _method must also satisfy that method's rules. "pass"
	// leaves headers that name a method, and bodies, unchanged. Default: "check".
	MethodOverride string `json:"method_override,omitempty"`
	// KeepOverrides is like "method_override": "pass" and also keeps headers that name a path.
	// Deprecated. Default: false.
	KeepOverrides bool `json:"keep_overrides,omitempty"`
	// CacheHeadersAsSent leaves the upstream's Vary and Cache-Control unchanged in responses.
	// Rejections are never cacheable. Default: false.
	CacheHeadersAsSent bool `json:"cache_headers_as_sent,omitempty"`
	// CORS configures which pages of other origins may read responses. Default: none.
	CORS *CORSConfig `json:"cors,omitempty"`
	// Headers chooses the limit headers of responses. Default: the keyspace's choice.
	Headers *HeadersConfig `json:"headers,omitempty"`
	// Realm is the realm in WWW-Authenticate. Default: the keyspace's name, or "API" for the
	// keyspace "default".
	Realm string `json:"realm,omitempty"`
}
