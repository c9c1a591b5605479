// Package cluster makes a gateway a member of a cluster: several gateways that share a store.
//
// A Member follows the store's change sequence and applies it to the gateway's keys. If gateways
// share the store, it also reports to a Registry which change it has applied, and until when it
// accepts keys from memory. So a writer can confirm that a change is in effect: every member has
// applied it, or no longer accepts keys from memory (Member.Confirm).
//
// Three times matter to a member that cannot reach the store. After laggingAfter, it no longer
// rejects keys as unknown, since they may have been created meanwhile. After unresponsiveAfter,
// others do not wait for it. After its Staleness, it accepts no key, and ends its live requests.
package cluster
