// Package checkup looks for likely mistakes in a configuration when the configuration starts, and
// logs warnings with remedies. It also keeps API keys out of the spans of the tracing directive.
package checkup

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/caddymodule/redact"
	"github.com/keygate-dev/keygate/plugin/apikey"
)

// warning is one likely mistake in a configuration. It is logged once, when the configuration
// starts. The message names the remedy.
type warning struct {
	level   slog.Level
	message string
	// at is file and line in the Caddyfile, or "" if they are unknown.
	at    string
	attrs []any
}

// Checkup examines a configuration that is starting.
type Checkup struct {
	*config.Config
	keyspaces map[string]*config.Keyspace
	ctx       caddy.Context
	log       *slog.Logger
}

// New returns a checkup of the configuration of ctx, which must be provisioned.
func New(ctx caddy.Context, log *slog.Logger, c *config.Compiled) *Checkup {
	return &Checkup{c.Config, c.Keyspaces, ctx, log}
}

// Warn logs a warning for each likely mistake in the configuration.
func (a *Checkup) Warn() {
	for _, w := range a.warnings(config.LastAdapted.Take()) {
		if w.at != "" {
			w.attrs = append(w.attrs, "at", w.at)
		}
		a.log.Log(context.Background(), w.level, w.message, w.attrs...)
	}
	a.warnCaching()
	a.warnDebug()
}

// warnings returns the likely mistakes in the configuration. at holds the lines of its Caddyfile.
func (a *Checkup) warnings(at *config.AdaptedLines) []warning {
	app := configuredHTTP(a.ctx)
	out := slices.Concat(a.clearSecrets(at), a.unusedKeyspaces(app, at), misplaced(app, at), uncheckedSites(app, at), uncheckedBranches(app, at),
		chosenByClients(app, at), forgedAddresses(app), servedErrors(app), a.withoutEffect(app, at))
	for _, name := range redact.LeakingLogs(a.ctx) {
		out = append(out, warning{level: slog.LevelWarn, attrs: []any{"logger", name},
			message: "a logger would write API keys of requests that do not reach the keygate directive: set `format keygate` in its log block; for the logger \"default\" set the global option `log { format keygate }`"})
	}
	return out
}

// clearSecrets warns of secrets that the configuration holds in plain text.
func (a *Checkup) clearSecrets(at *config.AdaptedLines) (out []warning) {
	add := func(what, field, placeholder string) {
		out = append(out, warning{level: slog.LevelWarn, at: at.Field(field), attrs: []any{"field", field},
			message: fmt.Sprintf("%s is in the configuration in plain text, and Caddy saves the configuration (autosave.json) and shows it (GET /config/): write %s or {file./path/of/a/file} instead; {$VAR} does not help, because it is replaced when the file is read", what, placeholder)})
	}
	for i, p := range a.Peppers {
		if !config.HasPlaceholder(p) {
			add("a pepper", fmt.Sprintf("peppers[%d]", i), "{env.KEYGATE_PEPPER}")
		}
	}
	for i, p := range a.ImportPeppers {
		if !config.HasPlaceholder(p) {
			add("an import_pepper", fmt.Sprintf("import_peppers[%d]", i), "{env.IMPORT_PEPPER}")
		}
	}
	if a.Secret != "" && !config.HasPlaceholder(a.Secret) {
		add("the secret", "secret", "{env.KEYGATE_SECRET}")
	}
	if a.Store != nil && clearPassword(a.Store.DSN) {
		add("the password of PostgreSQL", "store", "{env.DATABASE_URL}")
	}
	if a.Store != nil && clearPassword(a.Store.Listen) {
		add("the password of PostgreSQL", "store.listen", "{env.DATABASE_DIRECT_URL}")
	}
	if a.Limits != nil && clearPassword(a.Limits.Address) {
		add("the password of Redis", "limits", "{env.REDIS_URL}")
	}
	return out
}

// passwordWord matches a password in a connection string of keywords and values, or in a URL's
// query.
var passwordWord = regexp.MustCompile(`(?:^|[\s?&])(?:sentinel_)?password\s*=\s*([^\s&]*)`)

// clearPassword reports whether an address holds a password in plain text.
func clearPassword(address string) bool {
	for _, m := range passwordWord.FindAllStringSubmatch(address, -1) {
		if m[1] != "" && !config.HasPlaceholder(m[1]) {
			return true
		}
	}
	_, rest, ok := strings.Cut(address, "://")
	if !ok {
		return false
	}
	if end := strings.IndexAny(rest, "/?#"); end >= 0 {
		rest = rest[:end]
	}
	user := rest[:max(strings.LastIndexByte(rest, '@'), 0)]
	_, password, _ := strings.Cut(user, ":")
	if p, err := url.PathUnescape(password); err == nil {
		password = p
	}
	return password != "" && !config.HasPlaceholder(password)
}

// checker is implemented by the handler keygate.
type checker interface {
	// Checks returns the handler's configuration and its keyspace. ok is false if the handler
	// checks no request.
	Checks() (c *config.HandlerConfig, ks *config.Keyspace, ok bool)
}

// checking is the configuration of a keygate handler that checks requests.
type checking struct {
	*config.HandlerConfig
	keyspace *config.Keyspace
}

// checkingOf returns the configuration of h if h is a keygate handler that checks requests, else
// nil.
func checkingOf(h *routedHandler) *checking {
	if k, ok := h.handler.(checker); ok {
		if c, ks, ok := k.Checks(); ok {
			return &checking{c, ks}
		}
	}
	return nil
}

// checkingHandlers iterates over the keygate handlers that check requests, except those in error
// and response routes.
func checkingHandlers(app *caddyhttp.App) iter.Seq2[*routedHandler, *checking] {
	return func(yield func(*routedHandler, *checking) bool) {
		for h := range routedHandlers(app) {
			if k := checkingOf(h); k != nil && !h.inErrorRoute() && !h.inResponseRoute() && !yield(h, k) {
				return
			}
		}
	}
}

// unusedKeyspaces warns of keyspaces whose keys no site checks, and reports handlers and plans
// that only observe.
func (a *Checkup) unusedKeyspaces(app *caddyhttp.App, at *config.AdaptedLines) (out []warning) {
	used := make(map[string]bool)
	api, upstream := false, false
	for h := range routedHandlers(app) {
		switch h.module() {
		case "keygate_api", "keygate_check":
			api = true
		case "reverse_proxy", "keygate_proxy", "file_server":
			upstream = upstream || !h.inErrorRoute()
		case "keygate":
			if k := checkingOf(h); k != nil && !h.inErrorRoute() {
				used[k.keyspace.Name] = true
			}
		}
	}
	for h, k := range checkingHandlers(app) {
		if k.Observe {
			out = append(out, warning{level: slog.LevelInfo, at: at.Handler(k.HandlerConfig), attrs: []any{"site", h.site()},
				message: "keygate only observes on this site: requests that it would reject pass"})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(a.keyspaces)) {
		path := "keyspaces." + name
		for _, plan := range a.keyspaces[name].PlanOrder {
			if a.keyspaces[name].Plans[plan].Observe {
				out = append(out, warning{level: slog.LevelInfo, at: at.Field(path), attrs: []any{"keyspace", name, "plan", plan},
					message: "this plan only observes: requests that it would reject pass"})
			}
		}
		if bearer := slices.ContainsFunc(a.keyspaces[name].Places.List(), func(p apikey.Place) bool {
			return p.Kind == apikey.InAuthorization || p.Kind == apikey.InHeader
		}); !bearer {
			out = append(out, warning{level: slog.LevelInfo, at: at.Field(path + ".credentials"), attrs: []any{"keyspace", name},
				message: "keys in headers are not accepted, because credentials replaces the default places: add `default` to credentials to accept keys in Authorization: Bearer and X-API-Key too"})
		}
		if used[name] || api && (len(used) > 0 || !upstream) {
			continue // A gateway without sites that check keys may only verify keys over the API, so it gets no warning.
		}
		out = append(out, warning{level: slog.LevelWarn, at: at.Field(path), attrs: []any{"keyspace", name},
			message: "keygate is configured, but no site checks the keys of this keyspace: add the directive `keygate` to the site of the API"})
	}
	return out
}

// uncheckedSites warns of directives that check no request, or fewer requests than their lines
// suggest.
func uncheckedSites(app *caddyhttp.App, at *config.AdaptedLines) (out []warning) {
	type earlier struct {
		*routedHandler
		k *checking
	}
	var before []earlier
	for h, k := range checkingHandlers(app) {
		line := at.Handler(k.HandlerConfig)
		for _, p := range k.Public {
			if (p.Path == "*" || p.Path == "/*") && len(p.Methods) == 0 && len(k.Protect)+len(k.Optional) == 0 {
				out = append(out, warning{level: slog.LevelWarn, at: line, attrs: []any{"site", h.site()},
					message: fmt.Sprintf("`public %s` lets every request of this site pass without a key: name only the paths that need no key", p.Path)})
			}
		}
		for _, place := range k.keyspace.Places.List() {
			if place.Kind == apikey.InHeader && !strings.ContainsAny(place.Name, "_.") && serverHeaders(h.server).Drops(place.Name) {
				out = append(out, warning{level: slog.LevelWarn, at: line, attrs: []any{"site", h.site()}, message: config.RemedyDropped(place.Name)})
			}
		}
		for _, first := range before {
			if len(first.k.Only)+len(first.k.Except) == 0 && first.precedes(h) && first.covers(h) {
				out = append(out, warning{level: slog.LevelWarn, at: line, attrs: []any{"site", h.site(), "first", at.Handler(first.k.HandlerConfig)},
					message: "this keygate directive is never used: another keygate checks each request before it, and only the first one counts; put the rules of both into the first, or put each into its own handle block"})
				break
			}
		}
		before = append(before, earlier{h, k})
	}
	return out
}

// forgedAddresses warns of servers on which clients can choose the client address that limits use.
func forgedAddresses(app *caddyhttp.App) (out []warning) {
	var warned []*caddyhttp.Server
	for h := range checkingHandlers(app) {
		s := h.server
		if slices.Contains(warned, s) {
			continue
		}
		if trustsAll(s) {
			warned = append(warned, s)
			out = append(out, warning{level: slog.LevelWarn, attrs: []any{"server", h.serverName, "listen", s.Listen},
				message: "trusted_proxies contains every address, so clients can choose the address that Keygate uses for allowed addresses, limits per address and the audit: list only the addresses of the proxies in front"})
			continue
		}
		if s.TrustedProxiesStrict > 0 || len(s.ClientIPHeaders) > 0 && !slices.Contains(s.ClientIPHeaders, "X-Forwarded-For") {
			continue
		}
		if redact.TrustedProxies(s) == nil && !s.TrustedProxiesUnix {
			continue
		}
		warned = append(warned, s)
		out = append(out, warning{level: slog.LevelWarn, attrs: []any{"server", h.serverName, "listen", s.Listen},
			message: "trusted_proxies is set without trusted_proxies_strict: behind a proxy that appends to X-Forwarded-For, clients can choose the address that Keygate uses for allowed addresses, limits per address and the audit; add `trusted_proxies_strict` next to trusted_proxies in the global option servers"})
	}
	return out
}

// trustsAll reports whether s accepts client addresses in headers from every client, as if each
// were a trusted proxy.
func trustsAll(s *caddyhttp.Server) bool {
	source, _ := redact.TrustedProxies(s).(*caddyhttp.StaticIPRange)
	return source != nil && slices.ContainsFunc(source.GetIPRanges(nil), func(p netip.Prefix) bool { return p.Bits() == 0 })
}

// RejectDropped returns an error if a server drops the header that holds a keyspace's keys. A
// Caddyfile is already checked when it is adapted, against the options of all servers.
// RejectDropped also covers JSON, and checks the server that each site really has.
func (a *Checkup) RejectDropped() error {
	for h, k := range checkingHandlers(configuredHTTP(a.ctx)) {
		for _, place := range k.keyspace.Places.List() {
			if place.Kind == apikey.InHeader && strings.ContainsAny(place.Name, "_.") && serverHeaders(h.server).Drops(place.Name) {
				return config.Errorf("keyspaces."+k.keyspace.Name+".credentials", "site %s: %s", h.site(), config.RemedyDropped(place.Name))
			}
		}
	}
	return nil
}

func serverHeaders(s *caddyhttp.Server) config.ExpectedHeaders {
	return config.ExpectedHeaders{Underscore: s.ExpectedUnderscoreHeaders, Dot: s.ExpectedDotHeaders}
}
