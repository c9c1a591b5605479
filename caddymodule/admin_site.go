package caddymodule

import (
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

// siteOf returns the URL of a site that judges a keyspace's requests, without a
// trailing slash, as far as the configuration says it; "" where it does not. It is
// shown to people, beside a new key.
func (a *App) siteOf(keyspace string) string {
	app, err := a.ctx.AppIfConfigured("http")
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
			case *Handler:
				if h.keyspace != nil && h.keyspace.Name == keyspace && !h.StripOnly {
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

// clientAddress returns the address that a site takes a request to come from; the zero Addr on the admin
// endpoint, where Caddy says none.
func clientAddress(r *http.Request) netip.Addr {
	ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	return gateway.Addr(ip)
}
