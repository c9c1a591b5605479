package sites

import (
	"net"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keygate-dev/keygate/caddymodule/config"
)

// siteOf returns the URL of a site that checks a keyspace's requests, without a trailing slash; "" if the
// configuration does not tell it. People see it with a new key.
func siteOf(a App, keyspace string) string {
	app, err := a.Context().AppIfConfigured("http")
	if err != nil {
		return ""
	}
	servers := app.(*caddyhttp.App)
	best := ""
	for _, server := range servers.Servers {
		host, ok := siteIn(server.Routes, keyspace, "")
		if !ok {
			continue
		}
		// Of several, the choice is the same each time.
		if url := siteURL(servers, server, host); url != "" && (best == "" || url < best) {
			best = url
		}
	}
	return best
}

// handlerOfKeyspace is a keygate handler.
type handlerOfKeyspace interface {
	// Checks returns the handler's configuration and its keyspace. ok is false where it checks no request.
	Checks() (c *config.HandlerConfig, ks *config.Keyspace, ok bool)
}

// siteIn looks through routes for the handler of a keyspace, and returns the host that
// its routes match, host where they match none.
func siteIn(routes caddyhttp.RouteList, keyspace, host string) (string, bool) {
	for _, route := range routes {
		here := host
		for _, set := range route.MatcherSets {
			for _, m := range set {
				if hosts, ok := m.(*caddyhttp.MatchHost); ok && len(*hosts) > 0 {
					here = (*hosts)[0]
				}
			}
		}
		for _, h := range route.Handlers {
			switch h := h.(type) {
			case handlerOfKeyspace:
				if _, ks, ok := h.Checks(); ok && ks != nil && ks.Name == keyspace {
					return here, true
				}
			case *caddyhttp.Subroute:
				if found, ok := siteIn(h.Routes, keyspace, here); ok {
					return found, true
				}
			}
		}
	}
	return "", false
}

// siteURL writes the address of a server; "" for one that listens on no port.
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
