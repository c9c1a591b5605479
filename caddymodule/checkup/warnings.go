// Package checkup looks for likely mistakes in a configuration when it starts, and logs warnings with their remedies. It
// also keeps API keys out of the spans of the tracing directive.
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

// warning is one thing about a configuration that is likely not meant, and is logged once at its start.
// Its message names the remedy.
type warning struct {
	level   slog.Level
	message string
	// at is file and line of the Caddyfile; "" where they are not known.
	at    string
	attrs []any
}

// Checkup looks at a configuration that is starting.
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

// Warn logs the likely mistakes in the configuration.
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

// warnings returns the likely mistakes in the configuration. at are the lines of its Caddyfile.
func (a *Checkup) warnings(at *config.AdaptedLines) []warning {
	app := configuredHTTP(a.ctx)
	out := slices.Concat(a.clearSecrets(at), a.unusedKeyspaces(app, at), misplaced(app, at), uncheckedSites(app, at), uncheckedBranches(app, at),
		chosenByClients(app, at), forgedAddresses(app), servedErrors(app), a.withoutEffect(app, at))
	for _, name := range redact.LeakingLogs(a.ctx) {
		out = append(out, warning{level: slog.LevelWarn, attrs: []any{"logger", name},
			message: "a logger would write API keys of requests that do not reach the keygate directive: state `format keygate` in its log block; for the logger \"default\" that is the global option `log { format keygate }`"})
	}
	return out
}

// clearSecrets warns of secrets that are part of the configuration itself.
func (a *Checkup) clearSecrets(at *config.AdaptedLines) (out []warning) {
	add := func(what, field, placeholder string) {
		out = append(out, warning{level: slog.LevelWarn, at: at.Field(field), attrs: []any{"field", field},
			message: fmt.Sprintf("%s is in the configuration in clear, which Caddy saves (autosave.json) and shows (GET /config/); {$VAR} is no better, as it is replaced when the file is read: write %s or {file./path/of/a/file}", what, placeholder)})
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

// passwordWord matches a password among keywords and values or the parameters of a URL.
var passwordWord = regexp.MustCompile(`(?:^|[\s?&])(?:sentinel_)?password\s*=\s*([^\s&]*)`)

// clearPassword reports whether an address holds a password that is no placeholder.
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

// checker is a keygate handler.
type checker interface {
	// Checks returns the handler's configuration and its keyspace. ok is false where it checks no request.
	Checks() (c *config.HandlerConfig, ks *config.Keyspace, ok bool)
}

// checking is a keygate handler that checks requests.
type checking struct {
	*config.HandlerConfig
	keyspace *config.Keyspace
}

// checkingOf returns h as a keygate handler that checks requests; nil where it is none.
func checkingOf(h *routedHandler) *checking {
	if k, ok := h.handler.(checker); ok {
		if c, ks, ok := k.Checks(); ok {
			return &checking{c, ks}
		}
	}
	return nil
}

// checkingHandlers iterates over the keygate handlers that check requests, those in error and response
// routes left out.
func checkingHandlers(app *caddyhttp.App) iter.Seq2[*routedHandler, *checking] {
	return func(yield func(*routedHandler, *checking) bool) {
		for h := range routedHandlers(app) {
			if k := checkingOf(h); k != nil && !h.inErrorRoute() && !h.inResponseRoute() && !yield(h, k) {
				return
			}
		}
	}
}

// unusedKeyspaces warns of keyspaces whose keys no site checks, and tells of those that only observe.
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
				message: "keys are taken from no header, as credentials replaces the default places: add `default` there to take them from Authorization: Bearer and X-API-Key too"})
		}
		if used[name] || api && (len(used) > 0 || !upstream) {
			continue // keys may be verified over the API alone
		}
		out = append(out, warning{level: slog.LevelWarn, at: at.Field(path), attrs: []any{"keyspace", name},
			message: "keygate is configured, but no site checks the keys of this keyspace: add the directive `keygate` to the site of the API"})
	}
	return out
}

// uncheckedSites warns of directives that check no request, or fewer than they say.
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
					message: fmt.Sprintf("`public %s` lets every request of this site pass without a key: name the paths that need none", p.Path)})
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
					message: "this keygate directive is never used: another one has checked each request before, and only the first counts; put the rules of both into the first, or give each its own handle block"})
				break
			}
		}
		before = append(before, earlier{h, k})
	}
	return out
}

// forgedAddresses warns of servers on which clients can choose the address that limits use.
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
				message: "trusted_proxies holds every address, so that clients choose the address that is used for allowed addresses, limits per address and the audit: name the addresses of the proxies in front"})
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
			message: "trusted_proxies without trusted_proxies_strict: behind a proxy that appends to X-Forwarded-For, clients choose the address that is used for allowed addresses, limits per address and the audit: add `trusted_proxies_strict` next to trusted_proxies in the global option servers"})
	}
	return out
}

// trustsAll reports whether each client of s counts as a proxy that tells addresses of others.
func trustsAll(s *caddyhttp.Server) bool {
	source, _ := redact.TrustedProxies(s).(*caddyhttp.StaticIPRange)
	return source != nil && slices.ContainsFunc(source.GetIPRanges(nil), func(p netip.Prefix) bool { return p.Bits() == 0 })
}

// RejectDropped refuses a configuration in which a server drops the header that holds a keyspace's keys.
// The directive of a Caddyfile is refused before; this is for JSON, and for sites whose server is another.
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
