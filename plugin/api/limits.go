package api

import (
	"context"
	"net/http"

	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/limits"
)

type limitStatusPage = management.Page[limits.Record]

func (c *call) getKeyLimits() error {
	list, err := limits.Key(c.ctx, c.h.manager, c.actor, c.keyspace, c.r.PathValue("id"))
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, list)
}

func (c *call) getTenantLimits() error {
	list, err := limits.Tenant(c.ctx, c.h.manager, c.actor, c.keyspace, c.r.PathValue("slug"))
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, list)
}

func (c *call) resetKeyLimits() error {
	return c.resetLimits(limits.ResetKey, c.r.PathValue("id"))
}

func (c *call) resetTenantLimits() error {
	return c.resetLimits(limits.ResetTenant, c.r.PathValue("slug"))
}

// resetLimits resets the limits and answers with their state after the reset.
func (c *call) resetLimits(reset func(ctx context.Context, m *management.Manager, a management.Actor, keyspace, id string, policies []string) (limitStatusPage, error), id string) error {
	o, err := c.body(true)
	if err != nil {
		return err
	}
	policies := o.strings("policies")
	if err := o.done(); err != nil {
		return err
	}
	if policies.Set && !policies.Null && len(policies.Value) == 0 {
		o.fault("policies", "is empty; leave the field out to reset all")
		return o.done()
	}
	list, err := reset(c.ctx, c.h.manager, c.actor, c.keyspace, id, policies.Value)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, list)
}

func resetBody() fields {
	return fields{"policies": aListOf(aText(""), "Names of rates and quotas. Default and null: all of them.").orNull()}
}

var (
	planErrors = map[int][]string{http.StatusUnprocessableEntity: {management.CodePlanUnknown}}

	_ = document("GET /v1/keys/{id}/limits", doc{
		Summary: "Shows the state of each limit that applies to the key's requests, including those of its tenant.",
		Answers: map[int]any{http.StatusOK: limitStatusPage{}}, Errors: planErrors,
	})
	_ = document("GET /v1/tenants/{slug}/limits", doc{
		Summary: "Shows the state of each limit that is counted for the tenant as a whole.",
		Answers: map[int]any{http.StatusOK: limitStatusPage{}}, Errors: planErrors,
	})
	_ = document("POST /v1/keys/{id}/limits/reset", doc{
		Summary: "Resets limits that are counted for the key, and shows their state.",
		Body:    resetBody(), EmptyBody: true, Answers: map[int]any{http.StatusOK: limitStatusPage{}}, Errors: planErrors,
	})
	_ = document("POST /v1/tenants/{slug}/limits/reset", doc{
		Summary: "Resets limits that are counted for the tenant as a whole, and shows their state.",
		Body:    resetBody(), EmptyBody: true, Answers: map[int]any{http.StatusOK: limitStatusPage{}}, Errors: planErrors,
	})
)
