package caddymodule

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

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

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

// warn logs the likely mistakes in a's configuration, which must be provisioned.
func (a *App) warn() {
	for _, w := range a.warnings(lastAdapted.take()) {
		if w.at != "" {
			w.attrs = append(w.attrs, "at", w.at)
		}
		a.log.Log(context.Background(), w.level, w.message, w.attrs...)
	}
}

// warnings returns the likely mistakes in a's configuration. at are the lines of its Caddyfile.
func (a *App) warnings(at *adaptedLines) []warning {
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
func (a *App) clearSecrets(at *adaptedLines) (out []warning) {
	add := func(what, field, placeholder string) {
		out = append(out, warning{level: slog.LevelWarn, at: at.field(field), attrs: []any{"field", field},
			message: fmt.Sprintf("%s is in the configuration in clear, which Caddy saves (autosave.json) and shows (GET /config/); {$VAR} is no better, as it is replaced when the file is read: write %s or {file./path/of/a/file}", what, placeholder)})
	}
	for i, p := range a.Peppers {
		if !hasPlaceholder(p) {
			add("a pepper", fmt.Sprintf("peppers[%d]", i), "{env.KEYGATE_PEPPER}")
		}
	}
	for i, p := range a.ImportPeppers {
		if !hasPlaceholder(p) {
			add("an import_pepper", fmt.Sprintf("import_peppers[%d]", i), "{env.IMPORT_PEPPER}")
		}
	}
	if a.Secret != "" && !hasPlaceholder(a.Secret) {
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
		if m[1] != "" && !hasPlaceholder(m[1]) {
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
	return password != "" && !hasPlaceholder(password)
}

// checkingHandlers iterates over the keygate handlers that check requests, those in error and response
// routes left out.
func checkingHandlers(app *caddyhttp.App) iter.Seq2[*routedHandler, *Handler] {
	return func(yield func(*routedHandler, *Handler) bool) {
		for h := range routedHandlers(app) {
			if k, ok := h.handler.(*Handler); ok && !k.StripOnly && !h.inErrorRoute() && !h.inResponseRoute() && !yield(h, k) {
				return
			}
		}
	}
}

// unusedKeyspaces warns of keyspaces whose keys no site checks, and tells of those that only observe.
func (a *App) unusedKeyspaces(app *caddyhttp.App, at *adaptedLines) (out []warning) {
	used := make(map[string]bool)
	api, upstream := false, false
	for h := range routedHandlers(app) {
		switch h.module() {
		case "keygate_api", "keygate_check":
			api = true
		case "reverse_proxy", "keygate_proxy", "file_server":
			upstream = upstream || !h.inErrorRoute()
		case "keygate":
			if k := h.handler.(*Handler); !k.StripOnly && !h.inErrorRoute() {
				used[k.keyspace.Name] = true
			}
		}
	}
	for h, k := range checkingHandlers(app) {
		if k.Observe {
			out = append(out, warning{level: slog.LevelInfo, at: at.handler(&k.HandlerConfig), attrs: []any{"site", h.site()},
				message: "keygate only observes on this site: requests that it would reject pass"})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(a.keyspaces)) {
		path := "keyspaces." + name
		for _, plan := range a.keyspaces[name].PlanOrder {
			if a.keyspaces[name].Plans[plan].Observe {
				out = append(out, warning{level: slog.LevelInfo, at: at.field(path), attrs: []any{"keyspace", name, "plan", plan},
					message: "this plan only observes: requests that it would reject pass"})
			}
		}
		if bearer := slices.ContainsFunc(a.keyspaces[name].Places.List(), func(p apikey.Place) bool {
			return p.Kind == apikey.InAuthorization || p.Kind == apikey.InHeader
		}); !bearer {
			out = append(out, warning{level: slog.LevelInfo, at: at.field(path + ".credentials"), attrs: []any{"keyspace", name},
				message: "keys are taken from no header, as credentials replaces the default places: add `default` there to take them from Authorization: Bearer and X-API-Key too"})
		}
		if used[name] || api && (len(used) > 0 || !upstream) {
			continue // keys may be verified over the API alone
		}
		out = append(out, warning{level: slog.LevelWarn, at: at.field(path), attrs: []any{"keyspace", name},
			message: "keygate is configured, but no site checks the keys of this keyspace: add the directive `keygate` to the site of the API"})
	}
	return out
}

// uncheckedSites warns of directives that check no request, or fewer than they say.
func uncheckedSites(app *caddyhttp.App, at *adaptedLines) (out []warning) {
	type checking struct {
		*routedHandler
		k *Handler
	}
	var before []checking
	for h, k := range checkingHandlers(app) {
		line := at.handler(&k.HandlerConfig)
		for _, p := range k.Public {
			if (p.Path == "*" || p.Path == "/*") && len(p.Methods) == 0 && len(k.Protect)+len(k.Optional) == 0 {
				out = append(out, warning{level: slog.LevelWarn, at: line, attrs: []any{"site", h.site()},
					message: fmt.Sprintf("`public %s` lets every request of this site pass without a key: name the paths that need none", p.Path)})
			}
		}
		for _, place := range k.keyspace.Places.List() {
			if place.Kind == apikey.InHeader && !strings.ContainsAny(place.Name, "_.") && serverHeaders(h.server).drops(place.Name) {
				out = append(out, warning{level: slog.LevelWarn, at: line, attrs: []any{"site", h.site()}, message: remedyDropped(place.Name)})
			}
		}
		for _, first := range before {
			if len(first.k.Only)+len(first.k.Except) == 0 && first.precedes(h) && first.covers(h) {
				out = append(out, warning{level: slog.LevelWarn, at: line, attrs: []any{"site", h.site(), "first", at.handler(&first.k.HandlerConfig)},
					message: "this keygate directive is never used: another one has checked each request before, and only the first counts; put the rules of both into the first, or give each its own handle block"})
				break
			}
		}
		before = append(before, checking{h, k})
	}
	return out
}

// forgedAddresses warns of servers on which clients can choose the address that limits go by.
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
				message: "trusted_proxies holds every address, so that clients choose the address that allowed addresses, limits per address and the audit go by: name the addresses of the proxies in front"})
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
			message: "trusted_proxies without trusted_proxies_strict: behind a proxy that appends to X-Forwarded-For, clients choose the address that allowed addresses, limits per address and the audit go by: add `trusted_proxies_strict` beside trusted_proxies in the global option servers"})
	}
	return out
}

// trustsAll reports whether each client of s counts as a proxy that tells addresses of others.
func trustsAll(s *caddyhttp.Server) bool {
	source, _ := redact.TrustedProxies(s).(*caddyhttp.StaticIPRange)
	return source != nil && slices.ContainsFunc(source.GetIPRanges(nil), func(p netip.Prefix) bool { return p.Bits() == 0 })
}

// rejectDropped refuses a configuration in which a server drops the header that holds a keyspace's keys.
// The directive of a Caddyfile is refused before; this is for JSON, and for sites whose server is another.
func rejectDropped(app *caddyhttp.App) error {
	for h, k := range checkingHandlers(app) {
		for _, place := range k.keyspace.Places.List() {
			if place.Kind == apikey.InHeader && strings.ContainsAny(place.Name, "_.") && serverHeaders(h.server).drops(place.Name) {
				return fieldErrorf("keyspaces."+k.keyspace.Name+".credentials", "site %s: %s", h.site(), remedyDropped(place.Name))
			}
		}
	}
	return nil
}

func serverHeaders(s *caddyhttp.Server) expectedHeaders {
	return expectedHeaders{underscore: s.ExpectedUnderscoreHeaders, dot: s.ExpectedDotHeaders}
}
