// Package usage counts the requests of each key by hour, and keeps its last requests.
//
// A Tracker gives each key in use a Counter, which is part of the key's state in the gateway, so that counting a
// request takes one short lock and no look-up. The counts are written to the store every second, in one
// transaction. A Service reports them.
//
// # What counts
//
// Every request with a known key that a gateway has checked counts when it ends, in the hour in which it ends: a stream
// counts when it is over. It is either allowed and passed on, or rejected for one reason; requests is the sum of
// both. A request that passes because a plan or directive only observes counts as allowed; the reason that was
// only observed is in the metrics and among the last requests. Requests without a known key are in the
// metrics only.
//
// Requests that are verified instead of proxied count too, without bytes.
//
//   - upstream_errors are allowed requests with a status of 500 or more, or whose response broke off while the client
//     was still connected.
//   - credits are the credits taken from the tenant's balance, after refunds and actual costs, by allowed and
//     rejected requests.
//   - bytes_in and bytes_out are the parts of the bodies that were read and written; a hijacked connection
//     (WebSocket) counts none.
//   - latency covers allowed requests, from the check to the end of the response.
package usage
