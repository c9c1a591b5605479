// Package management is what may be done to tenants and keys: every rule about it,
// who did it, and the record kept of it. The API, the CLI and the console all call
// a Manager; none of them has a rule of its own.
//
// Every write is one transaction of the store: the rows, exactly one audit event, and
// the change that makes every node judge anew. A call that wrote returns when this
// node's engine has heard of it, so the very next request meets the new state.
package management
