package sites

import (
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/caddymodule/redact"
	"github.com/keygate-dev/keygate/plugin/api"
	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/auth"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
	"github.com/keygate-dev/keygate/plugin/ratelimit/clients"
)

// API mounts the management API on a site, for clients with a management token. It handles
// requests for paths under /v1/ and passes all others to the next handler. To mount it under
// another path, put it in a handle_path, which strips the prefix:
//
//	handle_path /manage/* {
//		keygate_api
//	}
type API struct {
	app  App
	logs *redact.Logs
	// failures counts unknown tokens by client address.
	failures *clients.Failures

	mu      sync.Mutex
	handler http.Handler
}

// tokenFailureRate is the rate of unknown tokens that one client address may send. It equals the default rate of unknown
// keys.
const tokenFailureRate = "100/m"

// maxFailingAddresses is the greatest number of addresses whose failures are counted.
const maxFailingAddresses = 100_000

// RegisterAPI registers the handler API and its directive keygate_api with Caddy.
func RegisterAPI() {
	caddy.RegisterModule(new(API))
	httpcaddyfile.RegisterHandlerDirective("keygate_api", parseAPI)
	httpcaddyfile.RegisterDirectiveOrder("keygate_api", httpcaddyfile.Before, "basic_auth")
}

func (*API) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.keygate_api", New: func() caddy.Module { return new(API) }}
}

// parseAPI reads the directive:
//
//	keygate_api [<matcher>]
func parseAPI(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	h.Next() // This call skips the name of the directive.
	if h.NextArg() {
		return nil, h.ArgErr()
	}
	if h.NextBlock(0) {
		return nil, h.Errf("keygate_api has no options, but '%s' is stated", h.Val())
	}
	if h.Option(config.AppName) == nil {
		return nil, h.Err("keygate_api needs the global option keygate { … }, which defines the keyspaces")
	}
	return new(API), nil
}

func (a *API) Provision(ctx caddy.Context) error {
	app, err := siteApp(ctx)
	if err != nil {
		return err
	}
	a.app = app
	policy, err := ratelimit.ParseRate(tokenFailureRate)
	if err != nil {
		return err
	}
	a.failures = clients.NewFailures(policy, maxFailingAddresses)
	a.logs = redact.NewLogs(ctx, redact.NewSecrets(app.Compiled().Cleaner, []apikey.Place{{Kind: apikey.InAuthorization, Name: "Bearer"}}), nil)
	return nil
}

func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	log := redact.Begin(a.logs, r)
	defer log.End(w)
	if r.URL.Path != "/v1" && !strings.HasPrefix(r.URL.Path, "/v1/") {
		return log.ServeError(w, r, next.ServeHTTP(w, r))
	}
	h := a.api()
	if h == nil {
		w.Header().Set("Retry-After", "1")
		api.WriteProblem(w, http.StatusServiceUnavailable, management.CodeStoreUnavailable, "The gateway is starting; try again.")
		return nil
	}
	h.ServeHTTP(w, r)
	return nil
}

// api returns the handler of the management API, or nil before the app's store is open.
func (a *API) api() http.Handler {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.handler == nil {
		if m := a.app.Engine().Manager(); m != nil {
			a.handler = managementAPI(a.app, m, func(r *http.Request) (api.Access, error) { return a.authenticate(a.app.Engine().Auth(), r) })
		}
	}
	return a.handler
}

var errNoToken = &management.Error{
	Status: http.StatusUnauthorized, Code: management.CodeMissingToken,
	Detail: "A management token is needed: Authorization: Bearer kgm_…",
}

// authenticate returns the access that the request's management token gives, or the error that
// rejects the request.
func (a *API) authenticate(auth *auth.Authority, r *http.Request) (api.Access, error) {
	sent := r.Header["Authorization"]
	if len(sent) == 0 {
		return api.Access{}, errNoToken
	}
	scheme, token, _ := strings.Cut(strings.TrimSpace(sent[0]), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return api.Access{}, errNoToken
	}
	if len(sent) > 1 {
		return api.Access{}, management.ErrMalformedToken
	}
	ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	addr := gateway.Addr(ip)
	if addr.IsValid() {
		ip = addr.String()
	}
	grant, err := auth.CheckToken(r.Context(), strings.TrimSpace(token), ip)
	if errors.Is(err, management.ErrUnknownToken) {
		// Only an unknown token is counted, so a client with a valid token is not rejected because
		// of other clients at the same address.
		if ok, retry := a.failures.Fail(time.Now(), addr); !ok {
			return api.Access{}, &management.Error{
				Status: http.StatusTooManyRequests, Code: "too_many_failures", RetryAfter: retry,
				Detail: "Too many failed attempts from this address.",
			}
		}
	}
	if err != nil {
		return api.Access{}, err
	}
	access := api.Access{Actor: grant.Actor(ip), Keyspace: grant.Keyspace, Allows: grant.Allows}
	err = actFor(&access, r)
	return access, err
}

// actFor sets the actor of access to the one that the request names. It returns an error unless
// the token has the scope act.
func actFor(access *api.Access, r *http.Request) error {
	name, ip, err := api.RequestedActor(r)
	if err != nil || name == "" && ip == "" {
		return err
	}
	if !access.Allows("act") {
		return &management.Error{
			Status: http.StatusForbidden, Code: management.CodeInsufficientScope,
			Detail: "The token lacks the scope act, which is needed to act for another user (" + api.ActorHeader + ", " + api.ActorIPHeader + ").",
		}
	}
	if name != "" {
		access.Actor.Name = name
	}
	if ip != "" {
		access.Actor.IP = ip
	}
	return nil
}

var (
	_ caddy.Provisioner           = (*API)(nil)
	_ caddyhttp.MiddlewareHandler = (*API)(nil)
)
