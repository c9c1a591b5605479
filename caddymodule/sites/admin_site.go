package sites

import (
	"net"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/rewrite"

	"github.com/keygate-dev/keygate/caddymodule/config"
)

// mount is the place of a handler in a server's routes.
type mount struct {
	handler caddyhttp.MiddlewareHandler
	// host is the host that the routes match; "" if they match none.
	host string
	// prefix is the part of the path that handlers before this one strip.
	prefix string
}

// mountIn returns the first handler in routes for which match returns true. at is the place of the routes.
func mountIn(routes caddyhttp.RouteList, match func(caddyhttp.MiddlewareHandler) bool, at mount) (mount, bool) {
	for _, route := range routes {
		here := at
		for _, set := range route.MatcherSets {
			for _, m := range set {
				if hosts, ok := m.(*caddyhttp.MatchHost); ok && len(*hosts) > 0 {
					here.host = (*hosts)[0]
				}
			}
		}
		for _, h := range route.Handlers {
			if match(h) {
				here.handler = h
				return here, true
			}
			switch h := h.(type) {
			case *rewrite.Rewrite:
				here.prefix += h.StripPathPrefix
			case *caddyhttp.Subroute:
				if found, ok := mountIn(h.Routes, match, here); ok {
					return found, true
				}
			}
		}
	}
	return mount{}, false
}

// urlOf returns the URL of a handler for which match returns true; "" if there is none. toURL returns the handler's
// URL from its place and the URL of its site, which may be "".
func urlOf(a App, match func(caddyhttp.MiddlewareHandler) bool, toURL func(m mount, site string) string) string {
	app, err := a.Context().AppIfConfigured("http")
	if err != nil {
		return ""
	}
	servers := app.(*caddyhttp.App)
	best := ""
	for _, server := range servers.Servers {
		m, ok := mountIn(server.Routes, match, mount{})
		if !ok {
			continue
		}
		// With several URLs, the result must not depend on the order of the map.
		if url := toURL(m, siteURL(servers, server, m.host)); url != "" && (best == "" || url < best) {
			best = url
		}
	}
	return best
}

// handlerOfKeyspace is implemented by the handler keygate.
type handlerOfKeyspace interface {
	// Checks returns the handler's configuration and its keyspace. ok is false if the handler
	// checks no request.
	Checks() (c *config.HandlerConfig, ks *config.Keyspace, ok bool)
}

// siteOf returns the URL of a site that checks a keyspace's requests, without a trailing slash, or
// "" if the configuration does not show it. New keys are shown with a curl command for this URL.
func siteOf(a App, keyspace string) string {
	return urlOf(a, func(h caddyhttp.MiddlewareHandler) bool {
		checking, ok := h.(handlerOfKeyspace)
		if !ok {
			return false
		}
		_, ks, ok := checking.Checks()
		return ok && ks != nil && ks.Name == keyspace
	}, func(_ mount, site string) string { return site })
}

// consoleOf returns the URL of a keyspace's console, without a trailing slash, or "" if the
// configuration does not show it.
func consoleOf(a App, keyspace string) string {
	return urlOf(a, func(h caddyhttp.MiddlewareHandler) bool {
		c, ok := h.(*Console)
		return ok && c.keyspace == keyspace
	}, func(m mount, site string) string {
		c := m.handler.(*Console)
		url := c.URL
		if url == "" && site != "" {
			url = site + m.prefix + c.Path
		}
		return strings.TrimSuffix(url, "/")
	})
}

// siteURL returns the URL of a server with this host, or "" if the server listens on no TCP port.
func siteURL(app *caddyhttp.App, server *caddyhttp.Server, host string) string {
	if len(server.Listen) == 0 {
		return ""
	}
	listens, err := caddy.ParseNetworkAddressWithDefaults(server.Listen[0], "tcp", 0)
	if err != nil || listens.IsUnixNetwork() || listens.IsFdNetwork() {
		return ""
	}
	if host == "" {
		host = listens.Host
	}
	if host == "" || host == "0.0.0.0" || host == "::" || strings.ContainsAny(host, "*{") {
		host = "localhost"
	}
	httpsPort := app.HTTPSPort
	if httpsPort == 0 {
		httpsPort = caddyhttp.DefaultHTTPSPort
	}
	port := int(listens.StartPort)
	scheme, usual := "http", 80
	if len(server.TLSConnPolicies) > 0 || port == httpsPort {
		scheme, usual = "https", 443
	}
	if port == 0 || port == usual {
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		return scheme + "://" + host
	}
	return scheme + "://" + net.JoinHostPort(host, strconv.Itoa(port))
}
