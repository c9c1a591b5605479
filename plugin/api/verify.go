package api

import (
	"context"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/keygate-dev/keygate/plugin/management"
)

func (c *call) verify() error {
	return c.verifyWith(func(j management.RequestChecker) verifyFunc { return j.Verify })
}

func (c *call) explain() error {
	return c.verifyWith(func(j management.RequestChecker) verifyFunc { return j.Explain })
}

type verifyFunc func(ctx context.Context, keyspace string, r management.VerifyRequest) (management.VerifyResult, error)

func (c *call) verifyWith(by func(management.RequestChecker) verifyFunc) error {
	if c.h.opts.Verifier == nil {
		return unavailable("Keys can't be judged here yet; try again.")
	}
	o, err := c.body(false)
	if err != nil {
		return err
	}
	var q management.VerifyRequest
	key, method, path, cost, ip := o.string("key"), o.string("method"), o.string("path"), o.int("cost"), o.string("ip")
	q.Key, q.Method, q.Path = key.Value, method.Value, path.Value
	if q.Method != "" && !token(q.Method) {
		o.fault("method", "must be a method, such as GET")
	}
	if q.Path != "" && !strings.HasPrefix(q.Path, "/") {
		o.fault("path", "must begin with /")
	}
	if cost.Set && !cost.Null {
		if cost.Value < 0 || cost.Value > management.MaxCredits {
			o.fault("cost", "must not be negative, and at most 9007199254740991")
		}
		q.Cost = &cost.Value
	}
	if ip.Value != "" {
		if q.IP, err = netip.ParseAddr(ip.Value); err != nil {
			o.fault("ip", "must be an address, such as 192.0.2.7 or 2001:db8::1")
		}
		q.IP = q.IP.Unmap()
	}
	if err := o.done(); err != nil {
		return err
	}
	if err := c.confine(&q); err != nil {
		return err
	}
	result, err := by(c.h.opts.Verifier)(c.ctx, c.keyspace, q)
	if err != nil {
		return err
	}
	return c.result(&result)
}

// confine puts a key that nobody has in the place of another tenant's, where the
// caller sees one tenant only: what is answered then, and what it takes, is the same as of an
// unknown key, and nothing of the other tenant's is spent.
func (c *call) confine(q *management.VerifyRequest) error {
	if c.actor.Tenant == "" || q.Key == "" {
		return nil
	}
	known, err := c.h.opts.Verifier.Explain(c.ctx, c.keyspace, management.VerifyRequest{Key: q.Key})
	if err == nil && known.KeyID != "" && known.Tenant != c.actor.Tenant {
		q.Key, err = c.ks.Grammar.Generate("")
	}
	return err
}

// token says whether s is a token as RFC 9110, section 5.6.2, has it.
func token(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
	}) < 0
}

func (c *call) listPlans() error {
	plans, err := c.h.manager.Plans(c.keyspace)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, plans)
}

func (c *call) getStatus() error {
	if err := c.actor.RequireOperator("see how the gateway is"); err != nil {
		return err
	}
	if c.h.opts.Status == nil {
		return unavailable("The gateway is starting; try again.")
	}
	status := c.h.opts.Status(c.ctx)
	if only := c.access.Keyspace; only != "" {
		// Whoever is confined to a keyspace is told of no other.
		status.Keyspaces = []string{only}
		status.StaleKeyspaces = slices.DeleteFunc(status.StaleKeyspaces, func(name string) bool { return name != only })
		for i := range status.Nodes {
			maps.DeleteFunc(status.Nodes[i].KeyspacesStopBy, func(name string, _ time.Time) bool { return name != only })
		}
	}
	return c.json(http.StatusOK, status)
}
