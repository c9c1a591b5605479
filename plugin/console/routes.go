package console

import (
	"net/http"
	"net/url"
	"strings"
)

// audience is the group of people who may use a route.
type audience uint8

const (
	// people are all signed-in people.
	people audience = iota
	// operators are the people who see the whole keyspace. Others get 404 from a route for
	// operators.
	operators
	// anybody includes people who are not signed in.
	anybody
)

// route is one method of one path.
type route struct {
	pattern string
	who     audience
	// scope is the scope that the session needs; "" for none.
	scope string
	serve func(*call) error
}

// routes lists every route of the console except the assets.
var routes = []route{
	{"GET /{$}", people, "", (*call).home},
	{"GET /sign-in", anybody, "", (*call).showSignIn},
	{"POST /sign-in", anybody, "", (*call).signIn},
	{"POST /sign-out", people, "", (*call).signOut},
	{"GET /portal", anybody, "", (*call).showPortal},
	{"POST /portal", anybody, "", (*call).enterPortal},

	{"GET /keys", people, "keys:read", (*call).listKeys},
	{"POST /keys/search", people, "keys:read", (*call).searchKeys},
	{"GET /keys/new", people, "keys:write", (*call).showNewKey},
	{"POST /keys/new", people, "keys:write", (*call).createKey},
	{"GET /keys/{id}", people, "keys:read", (*call).showKey},
	{"GET /keys/{id}/limits", people, "keys:read", (*call).keyLimits},
	{"GET /keys/{id}/requests", people, "usage:read", (*call).keyRequests},
	{"GET /keys/{id}/edit", people, "keys:write", (*call).showEditKey},
	{"POST /keys/{id}/edit", people, "keys:write", (*call).editKey},
	{"GET /keys/{id}/rotate", people, "keys:write", (*call).showRotateKey},
	{"POST /keys/{id}/rotate", people, "keys:write", (*call).rotateKey},
	{"GET /keys/{id}/{act}", people, "keys:write", (*call).confirmKey},
	{"POST /keys/{id}/{act}", people, "keys:write", (*call).changeKey},

	{"GET /usage", people, "usage:read", (*call).showUsage},
	{"GET /explain", people, "verify", (*call).showExplain},
	{"POST /explain", people, "verify", (*call).explain},

	{"GET /webhooks", people, "webhooks:read", (*call).listWebhooks},
	{"GET /webhooks/new", people, "webhooks:write", (*call).showNewWebhook},
	{"POST /webhooks/new", people, "webhooks:write", (*call).createWebhook},
	{"GET /webhooks/{id}", people, "webhooks:read", (*call).showWebhook},
	{"GET /webhooks/{id}/edit", people, "webhooks:write", (*call).showEditWebhook},
	{"POST /webhooks/{id}/edit", people, "webhooks:write", (*call).editWebhook},
	{"GET /webhooks/{id}/{act}", people, "webhooks:write", (*call).confirmWebhook},
	{"POST /webhooks/{id}/{act}", people, "webhooks:write", (*call).changeWebhook},
	{"POST /webhooks/{id}/deliveries/{delivery}/replay", people, "webhooks:write", (*call).replayDelivery},

	{"GET /audit", people, "audit:read", (*call).listAudit},

	{"GET /overview", operators, "usage:read", (*call).showOverview},
	{"GET /tenants", operators, "tenants:read", (*call).listTenants},
	{"GET /tenants/new", operators, "tenants:write", (*call).showNewTenant},
	{"POST /tenants/new", operators, "tenants:write", (*call).createTenant},
	{"GET /tenants/{slug}", operators, "tenants:read", (*call).showTenant},
	{"GET /tenants/{slug}/edit", operators, "tenants:write", (*call).showEditTenant},
	{"POST /tenants/{slug}/edit", operators, "tenants:write", (*call).editTenant},
	{"GET /tenants/{slug}/credits", operators, "tenants:read", (*call).showCredits},
	{"POST /tenants/{slug}/credits", operators, "credits:write", (*call).moveCredits},
	{"GET /tenants/{slug}/{act}", operators, "tenants:write", (*call).confirmTenant},
	{"POST /tenants/{slug}/{act}", operators, "tenants:write", (*call).changeTenant},
	{"GET /plans", operators, "tenants:read", (*call).listPlans},
	{"GET /tokens", operators, "tokens:read", (*call).listTokens},
	{"GET /tokens/new", operators, "tokens:write", (*call).showNewToken},
	{"POST /tokens/new", operators, "tokens:write", (*call).createToken},
	{"GET /tokens/{id}/revoke", operators, "tokens:write", (*call).confirmRevokeToken},
	{"POST /tokens/{id}/revoke", operators, "tokens:write", (*call).revokeToken},
	{"GET /sessions", operators, "tokens:read", (*call).listSessions},
	{"POST /sessions/{id}/end", operators, "tokens:write", (*call).endSession},
	{"GET /audit/chain", operators, "audit:read", (*call).verifyAudit},
}

// navItem is an entry of the navigation.
type navItem struct {
	Label, Path, Icon string
	// Here is true if the current page belongs to this entry.
	Here bool
}

// places lists the entries of the navigation. page is the prefix of the names of the entry's
// templates.
var places = []struct {
	label, path, page, scope string
	who                      audience
	// tenants restricts the entry to sessions of one tenant.
	tenants bool
}{
	{"Overview", "/overview", "overview", "usage:read", operators, false},
	{"API keys", "/keys", "key", "keys:read", people, false},
	{"Usage", "/usage", "usage", "usage:read", people, true},
	{"Tenants", "/tenants", "tenant", "tenants:read", operators, false},
	{"Plans", "/plans", "plan", "tenants:read", operators, false},
	{"Webhooks", "/webhooks", "webhook", "webhooks:read", people, false},
	{"Why refused?", "/explain", "explain", "verify", people, false},
	{"Audit log", "/audit", "audit", "audit:read", people, false},
	{"Tokens", "/tokens", "token", "tokens:read", operators, false},
	{"Sessions", "/sessions", "session", "tokens:read", operators, false},
}

// nav returns the entries of the navigation that the session may see.
func (c *call) nav(page string) (items []navItem) {
	if c.grant == nil {
		return nil
	}
	confined := c.grant.Tenant != ""
	for _, p := range places {
		if p.who == operators && confined || p.tenants && !confined || !c.grant.Allows(p.scope) || p.page == "explain" && c.h.opts.Verifier == nil {
			continue
		}
		items = append(items, navItem{Label: p.label, Path: c.path(p.path), Icon: p.page, Here: strings.HasPrefix(page, p.page)})
	}
	return items
}

// home redirects to the first entry of the navigation that the session may see.
func (c *call) home() error {
	items := c.nav("")
	if len(items) == 0 {
		return c.render(http.StatusOK, "nothing", "Nothing to see", nil)
	}
	c.w.Header().Set("Location", items[0].Path)
	c.w.WriteHeader(http.StatusSeeOther)
	return nil
}

// to returns a link in the console. Every second part is a path segment and gets escaped.
func (c *call) to(parts ...string) string {
	var b strings.Builder
	b.WriteString(c.base)
	for i, p := range parts {
		if i%2 == 1 {
			p = url.PathEscape(p)
		}
		b.WriteString(p)
	}
	return b.String()
}
