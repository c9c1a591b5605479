// Package gateway decides about requests: Check takes what a request showed and says
// whether it may pass, as whom, and what it used up. Read this package first.
//
//	credential → digest → key table → status → tenant → plan → address → scope → limits
//
// Check answers from memory. Storage, counting and telling others happen beside it.
// The package knows no proxy and no concrete store: Store is an interface, the proxy
// passes a View of its configuration with every call, and an engine outlives the
// configurations that use it.
package gateway
