package api

import (
	"context"
	"net/http"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
)

// issued is a new full key: shown in this answer, and never again.
type issued struct {
	management.IssuedKey
	Curl string `json:"curl"`
	secretNote
}

func (c *call) issued(status int, k management.IssuedKey) error {
	return c.record(status, k.Version, issued{IssuedKey: k, Curl: c.h.curl(c.ks, k.Key)})
}

func keyFields(o *object) management.KeyFields {
	return management.KeyFields{
		Name: o.string("name"), Description: o.string("description"), Scopes: o.strings("scopes"),
		Environment: o.string("environment"), ExpiresAt: o.time("expires_at"), AllowedIPs: o.strings("allowed_ips"),
		Rate: o.string("rate"), Quota: o.string("quota"), Concurrency: o.concurrency(),
		CreditsLimit: o.int("credits_limit"), Metadata: o.object("metadata"),
	}
}

func (c *call) createKey() error {
	o, err := c.body(false)
	if err != nil {
		return err
	}
	in := keyFields(o)
	if err := o.done(); err != nil {
		return err
	}
	k, err := c.h.manager.CreateKey(c.ctx, c.actor, c.keyspace, c.r.PathValue("slug"), in)
	if err != nil {
		return err
	}
	return c.issued(http.StatusCreated, k)
}

func (c *call) keyFilter() (q management.KeyFilter, err error) {
	q = management.KeyFilter{Tenant: c.query("tenant"), Status: gateway.Status(c.query("status")), Prefix: c.query("prefix")}
	q.PageQuery, err = c.page()
	return q, err
}

func (c *call) listKeys() error {
	q, err := c.keyFilter()
	if err != nil {
		return err
	}
	list, err := c.h.manager.Keys(c.ctx, c.actor, c.keyspace, q)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, list)
}

func (c *call) listTenantKeys() error {
	q, err := c.keyFilter()
	if err != nil {
		return err
	}
	list, err := c.h.manager.TenantKeys(c.ctx, c.actor, c.keyspace, c.r.PathValue("slug"), q)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, list)
}

func (c *call) getKey() error {
	k, err := c.h.manager.Key(c.ctx, c.actor, c.keyspace, c.r.PathValue("id"))
	if err != nil {
		return err
	}
	return c.record(http.StatusOK, k.Version, k)
}

func (c *call) patchKey() error {
	o, err := c.body(false)
	if err != nil {
		return err
	}
	in := keyFields(o)
	if err := o.done(); err != nil {
		return err
	}
	k, err := c.h.manager.UpdateKey(c.ctx, c.actor, c.keyspace, c.r.PathValue("id"), in, c.match())
	if err != nil {
		return err
	}
	return c.record(http.StatusOK, k.Version, k)
}

func (c *call) deleteKey() error {
	if err := c.h.manager.DeleteKey(c.ctx, c.actor, c.keyspace, c.r.PathValue("id"), c.match()); err != nil {
		return err
	}
	return c.noContent()
}

func (c *call) rotateKey() error {
	o, err := c.body(true)
	if err != nil {
		return err
	}
	grace, err := c.grace(o)
	if err != nil {
		return err
	}
	k, err := c.h.manager.RotateKey(c.ctx, c.actor, c.keyspace, c.r.PathValue("id"), grace)
	if err != nil {
		return err
	}
	return c.issued(http.StatusOK, k)
}

// grace reads how long the old secret stays valid: a duration, or until when.
func (c *call) grace(o *object) (time.Duration, error) {
	var d time.Duration
	if s := o.string("grace"); s.Set && !s.Null && len(o.faults) == 0 {
		var err error
		if until, notTime := time.Parse(time.RFC3339, s.Value); notTime == nil {
			if d = time.Until(until); d <= 0 {
				o.fault("grace", "must be in the future")
			}
		} else if d, err = management.ParseDuration(s.Value); err != nil {
			o.fault("grace", "must be a duration such as 24h or 30d, or a time as RFC 3339 has it")
		}
	}
	return d, o.done()
}

// maxWait bounds how long a caller may wait for other nodes.
const maxWait = time.Minute

// setState answers revoke, disable and enable with the receipt. A change holds on
// this node when it returns, and on those that the receipt names as having confirmed it.
func (c *call) setState(set func(ctx context.Context, a management.Actor, keyspace, id string) (management.Receipt, error)) error {
	o, err := c.body(true)
	if err != nil {
		return err
	}
	if s := o.string("wait"); s.Set && !s.Null && len(o.faults) == 0 {
		d, err := management.ParseDuration(s.Value)
		if err != nil || d > maxWait {
			o.fault("wait", "must be a duration of at most 1m, such as 2s")
		}
		c.ctx = management.WithWait(c.ctx, d)
	}
	if err := o.done(); err != nil {
		return err
	}
	receipt, err := set(c.ctx, c.actor, c.keyspace, c.r.PathValue("id"))
	if err != nil {
		return err
	}
	status := http.StatusOK
	if !receipt.Durable {
		status = http.StatusAccepted
	}
	return c.json(status, receipt)
}

func (c *call) revokeKey() error  { return c.setState(c.h.manager.RevokeKey) }
func (c *call) disableKey() error { return c.setState(c.h.manager.DisableKey) }
func (c *call) enableKey() error  { return c.setState(c.h.manager.EnableKey) }
