package api

// IdempotencyHeader names a request that is to be carried out once.
const IdempotencyHeader = "Idempotency-Key"

// secretNote is part of records that hold a secret: Code is "secret_already_shown" where
// a replay comes without it.
type secretNote struct {
	Code string `json:"code,omitempty"`
}
