package management

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

// Codes of refusals, as clients of the management API see them.
const (
	CodeInvalidJSON       = "invalid_json"
	CodeNotFound          = "not_found"
	CodeSlugTaken         = "slug_taken"
	CodeKeyLimitReached   = "key_limit_reached"
	CodeKeyRevoked        = "key_revoked"
	CodeTenantHasKeys     = "tenant_has_keys"
	CodePrecondition      = "precondition_failed"
	CodeInvalidField      = "invalid_field"
	CodeUnknownField      = "unknown_field"
	CodeScopeNotAllowed   = "scope_not_allowed"
	CodePlanUnknown       = "plan_unknown"
	CodeCreditsExhausted  = "credits_exhausted"
	CodeInsufficientScope = "insufficient_scope"
	CodeStoreUnavailable  = "store_unavailable"
)

// Error is a refusal: what was asked for is against a rule, and nothing was written.
// It never holds a secret.
type Error struct {
	// Status is the HTTP status that fits.
	Status int
	// Code names the rule for programs.
	Code string
	// Detail says for people what is wrong and what to do.
	Detail string
	// Fields names the fields at fault; empty where it is none's.
	Fields []FieldError
	// RetryAfter is when it may be tried again; 0 where that is not known.
	RetryAfter time.Duration
}

// FieldError is what is wrong with one field.
type FieldError struct {
	// Pointer is the field as a JSON pointer (RFC 6901), such as "/scopes/1". Empty for
	// a query parameter.
	Pointer string `json:"pointer,omitempty"`
	// Parameter is the query parameter at fault; empty for a field of the body.
	Parameter string `json:"parameter,omitempty"`
	Detail    string `json:"detail"`
}

// Error returns the detail and the fields at fault, in one line.
func (e *Error) Error() string {
	if len(e.Fields) == 0 {
		return e.Detail
	}
	parts := make([]string, len(e.Fields))
	for i, f := range e.Fields {
		name := strings.TrimPrefix(f.Pointer, "/")
		if name == "" {
			name = f.Parameter
		}
		parts[i] = name + ": " + f.Detail
	}
	return strings.Join(parts, "; ")
}

func Reject(status int, code, format string, args ...any) *Error {
	return &Error{Status: status, Code: code, Detail: fmt.Sprintf(format, args...)}
}

func NotFound(what string) *Error {
	return Reject(http.StatusNotFound, CodeNotFound, "There is no such %s.", what)
}

// OrNotFound turns the store's ErrNotFound into the refusal, and leaves other errors.
func OrNotFound(err error, what string) error {
	if errors.Is(err, gateway.ErrNotFound) {
		return NotFound(what)
	}
	return err
}

// Faults collects the errors in the fields of one request, so that a caller
// learns of all of it at once.
type Faults struct {
	code   string
	fields []FieldError
}

// Add notes a fault of the field with that name or path ("scopes/1"). The first
// fault's code becomes the error's.
func (f *Faults) Add(code, field, format string, args ...any) {
	if f.code == "" {
		f.code = code
	}
	f.fields = append(f.fields, FieldError{Pointer: "/" + field, Detail: fmt.Sprintf(format, args...)})
}

func (f *Faults) Invalid(field, format string, args ...any) {
	f.Add(CodeInvalidField, field, format, args...)
}

// Fields returns the faults.
func (f *Faults) Fields() []FieldError { return f.fields }

// Err returns the refusal, nil when there was no fault.
func (f *Faults) Err() error {
	if len(f.fields) == 0 {
		return nil
	}
	detail := "A field is not right."
	if len(f.fields) > 1 {
		detail = fmt.Sprintf("%d fields are not right.", len(f.fields))
	}
	return &Error{Status: http.StatusUnprocessableEntity, Code: f.code, Detail: detail, Fields: f.fields}
}

// Match is the versions of a record that a write may meet, as an If-Match header
// states them; nil holds for any, an empty one for none.
type Match []int64

func (m Match) Matches(version int64) bool { return m == nil || slices.Contains(m, version) }

var ErrPrecondition = Reject(http.StatusPreconditionFailed, CodePrecondition,
	"The record was changed since it was read. Read it again and decide anew.")

func IsNotFound(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Status == http.StatusNotFound
}
