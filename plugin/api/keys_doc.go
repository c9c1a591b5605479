package api

import (
	"net/http"

	"github.com/keygate-dev/keygate/plugin/management"
)

func keyBody() fields {
	return fields{
		"name":            aText("For people.").with("minLength", 1).with("maxLength", management.MaxKeyName),
		"description":     aText("What the key is for.").orNull(),
		"scopes":          aListOf(aText(""), "What the key may do, within what the tenant's plan allows. Default and null: all of that.").orNull(),
		"environment":     aText("One of the configured environments; can't be changed. Default and null: the first.").orNull(),
		"expires_at":      aMoment("Default and null: never.").orNull(),
		"allowed_ips":     aListOf(aText(""), "Addresses or CIDR blocks it is accepted from. Default, null and none: anywhere.").orNull(),
		"rate":            rateField(),
		"quota":           quotaField(),
		"concurrency":     concurrencyField(),
		"concurrency_per": concurrencyPerField(),
		"credits_limit":   aNumber("What the key may ever spend of its tenant's balance. Null: no bound.").with("minimum", 0).orNull(),
		"metadata":        metadataField(),
	}
}

// waitBody is the body of what takes effect on other nodes too.
func waitBody() fields {
	return fields{"wait": aText("How long to wait for every node to confirm, at most 1m. Default: 2s.").orNull()}
}

const onlyHere = "The full key is in this answer, and nowhere else."

var (
	keyFilters = map[string]schema{
		"status": oneOf("Only those.", "active", "disabled", "revoked", "expired"),
		"prefix": aText("Only those whose key_prefix begins so."),
	}
	keyRefused = map[int][]string{
		http.StatusConflict:            {management.CodeKeyRevoked, management.CodeKeyLimitReached},
		http.StatusUnprocessableEntity: {management.CodeScopeNotAllowed, management.CodePlanUnknown},
	}

	_ = document("GET /v1/keys", doc{
		Summary: "Lists keys, newest first.", Query: keyFilters,
		Answers: map[int]any{http.StatusOK: management.Page[management.KeyRecord]{}},
	})
	_ = document("GET /v1/tenants/{slug}/keys", doc{
		Summary: "Lists a tenant's keys, newest first.", Query: keyFilters,
		Answers: map[int]any{http.StatusOK: management.Page[management.KeyRecord]{}},
	})
	_ = document("POST /v1/tenants/{slug}/keys", doc{
		Summary: "Makes a key.", Description: onlyHere, Body: keyBody(), Required: []string{"name"}, Versioned: true,
		Answers: map[int]any{http.StatusCreated: issued{}}, Refusals: keyRefused,
	})
	_ = document("GET /v1/keys/{id}", doc{
		Summary: "Shows a key, without its secret.", Versioned: true,
		Answers: map[int]any{http.StatusOK: management.KeyRecord{}},
	})
	_ = document("PATCH /v1/keys/{id}", doc{
		Summary: "Changes what is stated of a key.", Body: keyBody(), Versioned: true,
		Description: "A token of one tenant may only tighten its limits: rate, quota, concurrency, credits_limit.",
		Answers:     map[int]any{http.StatusOK: management.KeyRecord{}}, Refusals: keyRefused,
	})
	_ = document("DELETE /v1/keys/{id}", doc{
		Summary: "Deletes a key: requests with it are refused as with an unknown one.", Versioned: true,
		Answers: map[int]any{http.StatusNoContent: nil, http.StatusAccepted: management.Receipt{}},
	})
	_ = document("POST /v1/keys/{id}/rotate", doc{
		Summary: "Gives a key a new secret.", Description: onlyHere + " The id, limits, scopes, audit and usage go on.",
		Body:      fields{"grace": aText("How long the old secret stays valid: a duration such as 24h, or a time. Default and null: not at all.").orNull()},
		EmptyBody: true, Versioned: true,
		Answers: map[int]any{http.StatusOK: issued{}}, Refusals: keyRefused,
	})
	_ = document("POST /v1/keys/{id}/revoke", doc{
		Summary: "Ends a key for good.", Body: waitBody(), EmptyBody: true,
		Answers: map[int]any{http.StatusOK: management.Receipt{}, http.StatusAccepted: management.Receipt{}},
	})
	_ = document("POST /v1/keys/{id}/disable", doc{
		Summary: "Refuses a key until it is enabled.", Body: waitBody(), EmptyBody: true,
		Answers: map[int]any{http.StatusOK: management.Receipt{}, http.StatusAccepted: management.Receipt{}}, Refusals: keyRefused,
	})
	_ = document("POST /v1/keys/{id}/enable", doc{
		Summary: "Ends a disabling.", Body: waitBody(), EmptyBody: true,
		Answers: map[int]any{http.StatusOK: management.Receipt{}}, Refusals: keyRefused,
	})
)
