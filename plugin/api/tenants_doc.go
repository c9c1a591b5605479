package api

import (
	"net/http"

	"github.com/keygate-dev/keygate/plugin/management"
)

// Fields that the bodies of tenants and of keys have in common.
func rateField() schema {
	return aText("Rate limits such as 300/m or 500/m burst 50, several joined by commas. Null clears.").orNull()
}
func quotaField() schema {
	return aText("Quotas such as 100000/month, several joined by commas. Null clears.").orNull()
}
func concurrencyField() schema {
	return aNumber("Requests at the same time. Null clears.").with("minimum", 1).orNull()
}

// concurrencyPers are the values of concurrency_per.
var concurrencyPers = []string{"key", "tenant", "address"}

func concurrencyPerField() schema {
	return oneOf("Where concurrency counts; stated with it. Default and null: key.", concurrencyPers...).orNull()
}
func metadataField() schema {
	return anObject("Anything of your own, at most 8 KiB; replaced as a whole.").orNull()
}

func tenantBody() fields {
	return fields{
		"slug":            aText("1 to 255 of A-Z a-z 0-9 _ . -; can't be changed, and is never given again.").with("maxLength", management.MaxSlug),
		"name":            aText("For people. Default and null: the slug.").orNull(),
		"plan":            aText("One of the configured plans. Default and null: the default plan.").orNull(),
		"active":          aFlag("false refuses all of the tenant's keys, until it is true again."),
		"credits":         aNumber("The balance to have; the difference is a movement in the ledger. A change takes the scope credits:write too.").with("minimum", 0),
		"rate":            rateField(),
		"quota":           quotaField(),
		"concurrency":     concurrencyField(),
		"concurrency_per": concurrencyPerField(),
		"metadata":        metadataField(),
	}
}

const ofOneTenant = " A token of one tenant may change only name and metadata."

var (
	_ = document("GET /v1/tenants", doc{
		Summary: "Lists tenants, by slug.",
		Query:   map[string]schema{"plan": aText("Only those that hold this plan.")},
		Answers: map[int]any{http.StatusOK: management.Page[management.TenantRecord]{}},
	})
	_ = document("POST /v1/tenants", doc{
		Summary: "Makes a tenant.", Body: tenantBody(), Required: []string{"slug"}, Versioned: true,
		Answers: map[int]any{http.StatusCreated: management.TenantRecord{}},
		Refusals: map[int][]string{
			http.StatusConflict: {management.CodeSlugTaken}, http.StatusUnprocessableEntity: {management.CodePlanUnknown},
		},
	})
	_ = document("GET /v1/tenants/{slug}", doc{
		Summary: "Shows a tenant.", Versioned: true,
		Answers: map[int]any{http.StatusOK: management.TenantRecord{}},
	})
	_ = document("PUT /v1/tenants/{slug}", doc{
		Summary: "Makes a tenant, or changes what is stated of it.", Description: "What is not stated stays." + ofOneTenant,
		Body: tenantBody(), EmptyBody: true, Versioned: true,
		Answers: map[int]any{http.StatusOK: management.TenantRecord{}, http.StatusCreated: management.TenantRecord{}},
		Refusals: map[int][]string{
			http.StatusPaymentRequired: {management.CodeCreditsExhausted}, http.StatusConflict: {management.CodeSlugTaken},
			http.StatusUnprocessableEntity: {management.CodePlanUnknown},
		},
	})
	_ = document("PATCH /v1/tenants/{slug}", doc{
		Summary: "Changes what is stated of a tenant.", Description: "Null clears an override." + ofOneTenant,
		Body: tenantBody(), Versioned: true,
		Answers: map[int]any{http.StatusOK: management.TenantRecord{}, http.StatusAccepted: management.Receipt{}},
		Refusals: map[int][]string{
			http.StatusPaymentRequired: {management.CodeCreditsExhausted}, http.StatusUnprocessableEntity: {management.CodePlanUnknown},
		},
	})
	_ = document("DELETE /v1/tenants/{slug}", doc{
		Summary: "Deletes a tenant, whose slug is never given again.", Versioned: true,
		Query: map[string]schema{
			"force": aFlag("Its keys too: without, it is refused while the tenant has keys that are not revoked."),
			"erase": aFlag("Forgets the tenant's people: in the audit who acted and from where, names and other free text, addresses, last requests. What was counted remains, and the audit still verifies. Works for a tenant that is deleted already, too."),
		},
		Answers:  map[int]any{http.StatusNoContent: nil, http.StatusAccepted: management.Receipt{}},
		Refusals: map[int][]string{http.StatusConflict: {management.CodeTenantHasKeys}},
	})
	_ = document("GET /v1/tenants/{slug}/credits", doc{
		Summary: "Shows a tenant's balance and what moved it, newest first.",
		Answers: map[int]any{http.StatusOK: management.CreditsRecord{}},
	})
	_ = document("POST /v1/tenants/{slug}/credits", doc{
		Summary: "Adds to a tenant's balance, or spends of it.", Description: "Either add or spend is stated. What the balance does not cover is not spent at all.",
		Body: fields{
			"add": aNumber("").with("minimum", 1), "spend": aNumber("").with("minimum", 1),
			"reference": aText("What for, in the ledger.").with("maxLength", management.MaxReference).orNull(),
		},
		Answers:  map[int]any{http.StatusOK: balance{}},
		Refusals: map[int][]string{http.StatusPaymentRequired: {management.CodeCreditsExhausted}},
	})
)
