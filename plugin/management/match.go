package management

import (
	"errors"
	"net/http"
	"slices"
)

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
