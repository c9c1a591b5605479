package api

import (
	"net/http"

	"github.com/keygate-dev/keygate/plugin/management"
)

var _ = document("DELETE /v1/nodes/{node}", doc{
	Summary: "Forgets a gateway that ended without saying so.",
	Description: "No change waits for it any more. It is for one that is known to be gone: one that is only cut off goes on " +
		"judging by what it holds until it stops by itself.",
	Answers:  map[int]any{http.StatusNoContent: nil},
	Refusals: map[int][]string{http.StatusConflict: {management.CodeNodeAlive}},
})

func (c *call) forgetNode() error {
	if err := c.h.manager.ForgetNode(c.ctx, c.actor, c.keyspace, c.r.PathValue("node")); err != nil {
		return err
	}
	return c.noContent()
}
