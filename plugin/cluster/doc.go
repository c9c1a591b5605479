// Package cluster makes a gateway a member of a cluster: several gateways that share a store.
//
// A Member follows the store's change sequence and applies the changes to the gateway's keys. If
// several gateways share the store, the Member also reports to a Registry which change it has applied,
// and until when it accepts keys from memory. So a writer can confirm that a change is in effect:
// every member has applied the change, or no longer accepts keys from memory (Member.Confirm).
//
// Three times matter to a member that cannot reach the store. After laggingAfter, the member no longer
// rejects keys as unknown, because they may be new. After unresponsiveAfter, other members do not wait
// for its confirmations. After its Staleness, the member accepts no key, and ends its live requests.
package cluster
