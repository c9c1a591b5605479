// Package gateway decides about requests. Check takes the credential of a request and returns whether the request may
// pass, which key and tenant sent it, and how much of their limits it used. Read this package first.
//
//	credential → digest → key table → status → tenant → plan → address → scope → limits
//
// Check answers from memory, with the keys that package keytable holds. Storing, counting and notifying happen in the
// background. The package imports no proxy and no concrete store: Store is an interface, and the proxy passes a View of its
// configuration with every call. So a Gateway outlives the configurations that use it. Package cluster makes a Gateway
// follow the changes in a shared store.
package gateway
