package console

import (
	"cmp"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/keygate-dev/keygate/plugin/inspect"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/usage"
)

// overviewPage shows the state of the gateway and its traffic.
type overviewPage struct {
	Status *inspect.Status
	Usage  *usageView
	// Top lists the keys with the most requests in the last 24 hours.
	Top []topKey
}

// topKey is one of the busiest keys, with its usage.
type topKey struct {
	ID, Name, Tenant, Prefix           string
	Requests, Allowed, Refused, Errors int64
	// Share is the key's percentage of all requests.
	Share int
}

// topKeys bounds the length of the list of busiest keys.
const topKeys = 8

func (c *call) showOverview() error {
	p := overviewPage{}
	var err error
	if c.h.opts.Status != nil {
		s := c.h.opts.Status(c.ctx)
		s.Keyspaces = nil
		p.Status = &s
	}
	if c.h.opts.Usage != nil {
		if p.Usage, err = c.usage(func(r usage.Range) (usage.Report, error) {
			return c.h.opts.Usage.OfAll(c.ctx, c.actor, c.h.opts.Keyspace, r, usage.Together)
		}); err != nil {
			return err
		}
		if p.Top, err = c.topKeys(); err != nil {
			return err
		}
	}
	return c.render(http.StatusOK, "overview", "Overview", p)
}

func (c *call) topKeys() ([]topKey, error) {
	now := time.Now()
	r, err := c.h.opts.Usage.OfAll(c.ctx, c.actor, c.h.opts.Keyspace, usage.Range{From: now.Add(-24 * time.Hour), To: now, Step: usage.ByDay}, usage.PerKey)
	var e *management.Error
	if errors.As(err, &e) {
		return nil, nil // The usage report has too many lines to be read for a page.
	}
	if err != nil {
		return nil, err
	}
	by := map[string]*topKey{}
	var all int64
	for _, l := range r.Data {
		k := by[l.Key]
		if k == nil {
			k = &topKey{ID: l.Key, Tenant: l.Tenant}
			by[l.Key] = k
		}
		k.Requests += l.Requests
		k.Allowed += l.Allowed
		k.Refused += l.Requests - l.Allowed
		k.Errors += l.UpstreamErrors
		all += l.Requests
	}
	list := make([]topKey, 0, len(by))
	for _, k := range by {
		list = append(list, *k)
	}
	slices.SortFunc(list, func(a, b topKey) int { return cmp.Or(cmp.Compare(b.Requests, a.Requests), cmp.Compare(a.ID, b.ID)) })
	if len(list) > topKeys {
		list = list[:topKeys]
	}
	for i := range list {
		k := &list[i]
		k.Share = percent(k.Requests, all)
		former, err := c.h.manager.FormerKey(c.ctx, c.actor, c.h.opts.Keyspace, k.ID)
		switch {
		case err == nil && former.DeletedAt.IsZero():
			k.Name, k.Prefix = former.Name, former.Prefix
		case err == nil:
			k.Name, k.ID = former.Name+" (deleted)", ""
		case !errors.As(err, &e):
			return nil, err
		}
	}
	return list, nil
}
