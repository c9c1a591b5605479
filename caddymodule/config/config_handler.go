package config

import (
	"github.com/keygate-dev/keygate/plugin/rules"
)

// HandlerConfig is what a `keygate` directive states: the keyspace that checks the requests, and
// the rules of paths.
type HandlerConfig struct {
	// Keyspace whose keys are checked. Default: the only keyspace where there is one,
	// else "default".
	Keyspace string `json:"keyspace,omitempty"`
	// StripOnly checks nothing: it only removes the headers in which upstreams are told
	// who calls, and those that make an upstream serve another path or method. It guards what the
	// matcher of a checking handler leaves out, and has that handler's keyspace, allow_upgrade and
	// method_override. Default: false.
	StripOnly bool `json:"strip_only,omitempty"`
	// The rules about paths stand among the handler's own fields: public, optional,
	// protect, scopes, costs and scope_deny. Default: every path needs a key, any valid
	// key will do, and a request costs 1.
	rules.Config
	// AllowUpgrade are the paths on which requests that are not checked may ask for another
	// protocol, such as WebSockets. They name no methods. Default: none.
	AllowUpgrade []rules.Pattern `json:"allow_upgrade,omitempty"`
	// Observe checks, counts and logs requests that would have been rejected, but lets them pass.
	// Default: false.
	Observe bool `json:"observe,omitempty"`
	// ForwardCredential leaves the key in the request for the upstream to see. Default: false.
	ForwardCredential bool `json:"forward_credential,omitempty"`
	// MethodOverride is "check" or "pass". With "check", headers that make an upstream serve
	// another path or method than the one checked are removed; and where the rules differ by method, a POST
	// whose query or body names another method in _method must satisfy the rules of both. "pass" leaves
	// headers that name a method, and bodies, alone. Default: "check".
	MethodOverride string `json:"method_override,omitempty"`
	// KeepOverrides is "method_override": "pass" which also leaves headers that name a path. Deprecated.
	// Default: false.
	KeepOverrides bool `json:"keep_overrides,omitempty"`
	// CacheHeadersAsSent leaves Vary and Cache-Control of responses as the upstream sent them. Rejections
	// are not cacheable in any case. Default: false.
	CacheHeadersAsSent bool `json:"cache_headers_as_sent,omitempty"`
	// CORS states which pages of other origins may read responses. Default: none.
	CORS *CORSConfig `json:"cors,omitempty"`
	// Headers chooses the limit headers of responses. Default: what the keyspace states.
	Headers *HeadersConfig `json:"headers,omitempty"`
	// Realm names the protected space in WWW-Authenticate. Default: the keyspace's
	// name, "API" for the keyspace default.
	Realm string `json:"realm,omitempty"`
}
