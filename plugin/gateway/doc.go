// Package gateway decides about requests: Check takes a request's credential and returns whether
// the request may pass, whose it is, and what it used up. Read this package first.
//
//	credential → digest → key table → status → tenant → plan → address → scope → limits
//
// Check answers from memory, from the keys that package keytable holds. Storage, counting and
// notifications happen in the background. The package knows no proxy and no concrete store: Store
// is an interface, and the proxy passes a View of its configuration with every call. So a Gateway
// outlives the configurations that use it. Package cluster has it follow changes of the store.
package gateway
