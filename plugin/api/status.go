package api

import (
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/keygate-dev/keygate/plugin/management"
)

var (
	_ = document("GET /v1/plans", doc{
		Summary: "Lists the plans as configured.",
		Answers: map[int]any{http.StatusOK: management.Page[management.PlanRecord]{}},
	})
	_ = document("GET /v1/status", doc{
		Summary: "Shows the state of the gateway.",
		Answers: map[int]any{http.StatusOK: management.Status{}},
	})
	_ = document("DELETE /v1/nodes/{node}", doc{
		Summary: "Removes a gateway that ended without signing off.",
		Description: "Changes no longer wait for it. Use it only for a gateway that has certainly ended: one that is only cut off goes on " +
			"checking requests by its copy until it stops by itself.",
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
	if err := c.actor.RequireOperator("see how the gateway is"); err != nil {
		return err
	}
	if c.h.opts.Status == nil {
		return unavailable("The gateway is starting; try again.")
	}
	status := c.h.opts.Status(c.ctx)
	if only := c.access.Keyspace; only != "" {
		// A caller with one keyspace sees no other.
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
