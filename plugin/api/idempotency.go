package api

// IdempotencyHeader names a request that is to be carried out once.
const IdempotencyHeader = "Idempotency-Key"
