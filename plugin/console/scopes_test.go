package console

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/auth"
)

// ofEditors are the routes that editors have and viewers do not. Viewers have all other routes for
// people.
var ofEditors = []string{
	"GET /keys/new", "POST /keys/new", "GET /keys/{id}/edit", "POST /keys/{id}/edit", "GET /keys/{id}/rotate", "POST /keys/{id}/rotate",
	"GET /keys/{id}/{act}", "POST /keys/{id}/{act}",
	"GET /webhooks/new", "POST /webhooks/new", "GET /webhooks/{id}/edit", "POST /webhooks/{id}/edit", "GET /webhooks/{id}/{act}", "POST /webhooks/{id}/{act}",
	"POST /webhooks/{id}/deliveries/{delivery}/replay",
}

// ofOperators are the routes that neither editors nor viewers have.
var ofOperators = []string{
	"GET /overview", "GET /tenants", "GET /tenants/new", "POST /tenants/new", "GET /tenants/{slug}", "GET /tenants/{slug}/edit", "POST /tenants/{slug}/edit",
	"GET /tenants/{slug}/credits", "POST /tenants/{slug}/credits", "GET /tenants/{slug}/{act}", "POST /tenants/{slug}/{act}", "GET /plans",
	"GET /tokens", "GET /tokens/new", "POST /tokens/new", "GET /tokens/{id}/revoke", "POST /tokens/{id}/revoke", "GET /sessions", "POST /sessions/{id}/end",
	"GET /audit/chain",
}

// Each portal role can use its own routes and no others.
func TestPortalRoles(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "pro")
	for _, role := range []string{"viewer", "editor"} {
		b := w.person("acme", role)
		csrf := b.csrf()
		for _, r := range routes {
			if r.who == anybody || r.pattern == "POST /sign-out" {
				continue
			}
			method, path, _ := strings.Cut(r.pattern, " ")
			path = strings.NewReplacer("{$}", "", "{id}", "none", "{slug}", "acme", "{act}", "delete", "{delivery}", "none").Replace(path)
			var p page
			if method == "GET" {
				p = b.get(path)
			} else {
				p = b.post(path, "csrf", csrf, "once", "n")
			}
			operators := slices.Contains(ofOperators, r.pattern)
			refused := role == "viewer" && slices.Contains(ofEditors, r.pattern)
			if (p.status == http.StatusForbidden) != refused || operators && p.status != http.StatusNotFound {
				t.Errorf("%s for a %s: %d", r.pattern, role, p.status)
			}
		}
	}
}

// A session can end only sessions and tokens whose scopes it has itself.
func TestSessionEndsWithinItsScopes(t *testing.T) {
	w := newFixture(t)
	wide := w.operator()
	token := w.token("*")
	narrow := w.operator("tokens:read", "tokens:write")
	list := testkit.Must[management.Page[auth.SessionRecord]](t)(auth.New(w.manager).Sessions(ctx, root, "default", auth.SessionFilter{}))
	if len(list.Data) != 2 {
		t.Fatalf("%d sessions", len(list.Data))
	}
	narrow.send("/sessions/" + list.Data[1].ID + "/end").want(http.StatusForbidden).has("lacks the scope *")
	narrow.send("/tokens/"+token.ID+"/revoke", "once", "n").want(http.StatusForbidden).has("lacks the scope *")
	wide.get("/tenants").want(http.StatusOK)
	narrow.send("/sign-out").want(http.StatusOK)
}
