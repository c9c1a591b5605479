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

// These are the codes of errors that clients of the management API see.
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

// Error says that a rule does not allow the operation. Nothing was written. An Error never holds a
// secret.
type Error struct {
	// Status is the HTTP status of the response.
	Status int
	// Code names the rule, for programs.
	Code string
	// Detail tells people what is wrong and what to do.
	Detail string
	// Fields are the fields at fault; empty where no single field is.
	Fields []FieldError
	// RetryAfter is how long the caller should wait before a retry; 0 where that is not known.
	RetryAfter time.Duration
}

// FieldError describes what is wrong with one field.
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

// OrNotFound returns NotFound(what) for the store's gateway.ErrNotFound, and any other error
// unchanged.
func OrNotFound(err error, what string) error {
	if errors.Is(err, gateway.ErrNotFound) {
		return NotFound(what)
	}
	return err
}

// Faults collects the errors of all fields of a request, so that the caller sees all of them at
// once.
type Faults struct {
	code   string
	fields []FieldError
}

// Add records a fault of a field, given by its name or path such as "scopes/1". The code of the
// first fault becomes the code of the error.
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

// Err returns the faults as an *Error with status 422; nil if there is none.
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

// Match holds the versions of a record that a write may replace, as an If-Match header states
// them. A nil Match allows any version, and an empty one allows none.
type Match []int64

func (m Match) Matches(version int64) bool { return m == nil || slices.Contains(m, version) }

var ErrPrecondition = Reject(http.StatusPreconditionFailed, CodePrecondition,
	"The record was changed since it was read. Read it again before you change it.")

func IsNotFound(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Status == http.StatusNotFound
}
