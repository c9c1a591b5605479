package api

import (
	"net/http"

	"github.com/keygate-dev/keygate/plugin/management"
)

func verifyBody() fields {
	return fields{
		"key":    aText("The full key. Default: a request without one.").orNull(),
		"method": aText("Default: GET.").orNull(),
		"path":   aText("As a client sends it. Default: no rules of a path are applied.").orNull(),
		"cost":   aNumber("What it takes of quotas and credits. Default and null: what the path's rule says.").with("minimum", 0).orNull(),
		"ip":     aText("The client's address.").orNull(),
	}
}

var (
	_ = document("GET /v1/plans", doc{
		Summary: "Lists the plans as configured.",
		Answers: map[int]any{http.StatusOK: management.Page[management.PlanRecord]{}},
	})
	_ = document("GET /v1/status", doc{
		Summary: "Says how the gateway is.",
		Answers: map[int]any{http.StatusOK: management.Status{}},
	})
	_ = document("POST /v1/verify", doc{
		Summary: "Judges a request that does not pass through the proxy, and spends what it costs.", Body: verifyBody(),
		Answers: map[int]any{http.StatusOK: management.VerifyResult{}},
	})
	_ = document("POST /v1/explain", doc{
		Summary: "Judges a request, spends nothing, and shows the outcome of each check.", Body: verifyBody(),
		Answers: map[int]any{http.StatusOK: management.VerifyResult{}},
	})
)
