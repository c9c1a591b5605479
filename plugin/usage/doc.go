// Package usage counts what each key does, hour by hour, and remembers its last requests.
//
// A Tracker gives every key in use a Counter, which hangs at the key's state in the
// gateway, so that counting a request is one short lock and no look-up. What was counted
// is written to the store each second, in one transaction; a Service answers what
// was used.
//
// # What counts
//
// Every request that a gateway judged and whose key it knows, when it has ended, in the
// hour in which it ended: a stream counts when it is over. It is either allowed,
// passed on, or refused for one reason, answered here; requests is the sum of both.
// A request that a plan or directive with observe let pass counts as allowed, since it was;
// what would have been refused is in the metrics and among the last requests.
// Requests without a known key belong to nobody, and are in the metrics only.
//
// Requests that are verified instead of proxied count too, without bytes.
//
//   - upstream_errors are allowed requests that ended with a status of 500 or more, or
//     broke off in mid-response while the client was still there.
//   - credits are what was really taken of the tenant's balance, after refunds and
//     actual costs, from requests of whatever reason.
//   - bytes_in and bytes_out are the bodies as far as they were read and written; a
//     connection that was taken over (WebSocket) counts none.
//   - latency is of allowed requests, from judging to the end of the response.
package usage
