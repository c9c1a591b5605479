package console

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/inspect"
	"github.com/keygate-dev/keygate/plugin/management"
)

// keyRow is a key in the list, with the plan of its tenant.
type keyRow struct {
	management.KeyRecord
	Plan string
}

// keysPage is the page that lists keys.
type keysPage struct {
	Rows []keyRow
	Next string
	// Search, Status and Tenant are the filters. First is true on the first page.
	Search, Status, Tenant string
	First                  bool
	// Statuses are the links that filter by status.
	Statuses []statusLink
	// Of is the tenant whose keys are listed; nil for keys of all tenants.
	Of *management.TenantRecord
}

// statusLink is a link that filters a list by status.
type statusLink struct {
	Label, URL string
	Here       bool
}

// Filtered reports whether the list may lack some keys because of a filter or because it is not
// the first page.
func (p keysPage) Filtered() bool { return p.Search != "" || p.Status != "" || !p.First }

func (c *call) listKeys() error {
	q := c.r.URL.Query()
	p := keysPage{Search: q.Get("q"), Status: q.Get("status"), Tenant: q.Get("tenant"), First: q.Get("cursor") == ""}
	if c.actor.Tenant != "" {
		p.Tenant = c.actor.Tenant
	}
	if p.Tenant != "" {
		t, err := c.h.manager.Tenant(c.ctx, c.actor, c.h.opts.Keyspace, p.Tenant)
		if err != nil {
			return err
		}
		p.Of = &t
	}
	list, err := c.h.manager.Keys(c.ctx, c.actor, c.h.opts.Keyspace, management.KeyFilter{
		Tenant: p.Tenant, Status: gateway.Status(p.Status), Search: p.Search, PageQuery: c.page(),
	})
	if err != nil {
		return err
	}
	if p.Rows, err = c.withPlans(list.Data); err != nil {
		return err
	}
	p.Next = c.next(list.NextCursor)
	for _, s := range []string{"", "active", "disabled", "expired", "revoked"} {
		to := url.Values{}
		for name, v := range map[string]string{"q": p.Search, "tenant": q.Get("tenant"), "status": s} {
			if v != "" {
				to.Set(name, v)
			}
		}
		link := c.path("/keys")
		if len(to) > 0 {
			link += "?" + to.Encode()
		}
		label := "All"
		if s != "" {
			label = upperFirst(s)
		}
		p.Statuses = append(p.Statuses, statusLink{label, link, s == p.Status})
	}
	return c.render(http.StatusOK, "keys", "API keys", p)
}

// withPlans returns the keys with the plans of their tenants. Plans that the session may not see
// are left out.
func (c *call) withPlans(keys []management.KeyRecord) ([]keyRow, error) {
	plans := map[string]string{}
	rows := make([]keyRow, len(keys))
	for i, k := range keys {
		if _, ok := plans[k.Tenant]; !ok && c.grant.Allows("tenants:read") {
			t, err := c.h.manager.Tenant(c.ctx, c.actor, c.h.opts.Keyspace, k.Tenant)
			var gone *management.Error
			if err != nil && !errors.As(err, &gone) {
				return nil, err
			}
			plans[k.Tenant] = t.Plan
		}
		rows[i] = keyRow{k, plans[k.Tenant]}
	}
	return rows, nil
}

// searchKeys redirects to the key or the list that was searched for. The search is a POST, so that
// no URL contains a full key.
func (c *call) searchKeys() error {
	search := strings.TrimSpace(c.r.PostForm.Get("q"))
	to := url.Values{}
	for _, name := range []string{"status", "tenant"} {
		if v := c.r.PostForm.Get(name); v != "" {
			to.Set(name, v)
		}
	}
	ks, err := c.h.manager.Keyspace(c.h.opts.Keyspace)
	if err != nil {
		return err
	}
	if clean := management.CleanTokens(ks.Grammar.Clean(search)); clean != search {
		id, err := c.keyOf(search)
		if err != nil {
			return err
		}
		if id != "" {
			return c.redirect("/keys/"+id, "")
		}
		search, _, _ = strings.Cut(clean, "…")
	}
	if search != "" {
		to.Set("q", search)
	}
	return c.redirect("/keys?"+to.Encode(), "")
}

// keyOf returns the id of a full key, or "" if the session can see no such key.
func (c *call) keyOf(full string) (string, error) {
	if c.h.opts.Verifier == nil {
		return "", nil
	}
	known, err := c.h.opts.Verifier.Explain(c.ctx, c.h.opts.Keyspace, inspect.Request{Key: full})
	if err != nil || known.KeyID == "" || c.actor.Tenant != "" && known.Tenant != c.actor.Tenant {
		return "", err
	}
	return known.KeyID, nil
}
