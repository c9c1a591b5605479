package api

import (
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/keygate-dev/keygate/plugin/inspect"
	"github.com/keygate-dev/keygate/plugin/management"
)

var (
	_ = document("GET /v1/plans", doc{
		Summary: "Lists the plans as configured.",
		Answers: map[int]any{http.StatusOK: management.Page[management.PlanRecord]{}},
	})
	_ = document("GET /v1/status", doc{
		Summary: "Shows the state of the gateway.",
		Answers: map[int]any{http.StatusOK: inspect.Status{}},
	})
	_ = document("DELETE /v1/nodes/{node}", doc{
		Summary: "Removes a gateway that ended without leaving the cluster.",
		Description: "Changes no longer wait for the gateway's confirmation. Remove only a gateway that has certainly ended: a gateway that is only cut off continues " +
			"to check requests with its local copy until it stops by itself.",
		Answers: map[int]any{http.StatusNoContent: nil},
		Errors:  map[int][]string{http.StatusConflict: {management.CodeNodeAlive}},
	})
)

func (c *call) listPlans() error {
	plans, err := c.h.manager.Plans(c.keyspace)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, plans)
}

func (c *call) getStatus() error {
	if err := c.actor.RequireOperator("see the state of the gateway"); err != nil {
		return err
	}
	if c.h.opts.Status == nil {
		return unavailable("The gateway is starting; try again.")
	}
	status := c.h.opts.Status(c.ctx)
	if only := c.access.Keyspace; only != "" {
		// A caller that may see one keyspace must not see the names of others.
		status.Keyspaces = []string{only}
		status.StaleKeyspaces = slices.DeleteFunc(status.StaleKeyspaces, func(name string) bool { return name != only })
		for i := range status.Nodes {
			maps.DeleteFunc(status.Nodes[i].KeyspacesStopBy, func(name string, _ time.Time) bool { return name != only })
		}
	}
	return c.json(http.StatusOK, status)
}

func (c *call) forgetNode() error {
	if err := c.h.manager.ForgetNode(c.ctx, c.actor, c.keyspace, c.r.PathValue("node")); err != nil {
		return err
	}
	return c.noContent()
}
