// Package inspect declares what a running gateway reports about itself and about single requests. The API and the console
// show it.
package inspect

import (
	"context"
	"net/netip"
	"strings"

	"github.com/keygate-dev/keygate/plugin/management"
)

// Checker checks requests that do not pass through the proxy, as the proxy would.
type Checker interface {
	// Verify checks a request and spends its cost.
	Verify(ctx context.Context, keyspace string, r Request) (Result, error)
	// Explain checks a request and spends nothing. It sets Result.Checks.
	Explain(ctx context.Context, keyspace string, r Request) (Result, error)
}

// Request is a request to be checked.
type Request struct {
	// Key is the full key; "" for a request without one.
	Key string
	// Method is the request's method. Default: GET.
	Method string
	// Path is the request's path as a client sends it, with or without a query. "": the rules of paths do not apply, and any
	// active key is accepted.
	Path string
	// Cost is what the request takes from quotas and credits. nil: the cost of the path's rule.
	Cost *int64
	// IP is the client's address. The zero Addr is on no list of allowed addresses.
	IP netip.Addr
}

// Result is the outcome of a check.
type Result struct {
	Allowed bool `json:"allowed"`
	// Reason is "allowed" or the name of the reason to reject. Status, Code and Message are those of the response that a
	// client would get.
	Reason  string `json:"reason"`
	Status  int    `json:"status"`
	Code    string `json:"code"`
	Message string `json:"message"`
	// Path is the canonical path; "" where the request has none, or its path is ambiguous.
	Path string `json:"path"`
	// Headers are the limit headers of the response.
	Headers map[string]string `json:"headers"`
	// Tenant and the fields after it are the context headers of the request to the upstream; empty where no key was found.
	Tenant      string   `json:"tenant"`
	Plan        string   `json:"plan"`
	KeyID       string   `json:"key_id"`
	KeyName     string   `json:"key_name"`
	Scopes      []string `json:"scopes"`
	Environment string   `json:"environment"`
	// Checks are the results of the checks in their order, up to the check that failed. Only Explain sets them.
	Checks []Check `json:"checks,omitempty"`
}

// Check is the outcome of one check.
type Check struct {
	Check  string `json:"check"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

// InvalidField returns the error of a Checker for a fault in one field. pointer is a JSON pointer such as "/path".
func InvalidField(pointer, detail string) *management.Error {
	var f management.Faults
	f.Invalid(strings.TrimPrefix(pointer, "/"), "%s", detail)
	return f.Err().(*management.Error)
}
