package management

import (
	"encoding/base64"
	"net/http"
	"strings"
)

// Bounds of a page.
const (
	DefaultPage = 50
	MaxPage     = 100
)

// PageQuery says which page of a list is wanted.
type PageQuery struct {
	// Limit is 1 to 100. 0: 50.
	Limit int
	// Cursor is a page's NextCursor; "" for the first page. A page begins after the last
	// row of the one before, so rows that come and go meanwhile neither repeat nor hide others.
	Cursor string
}

// badParameter refuses a query parameter.
func badParameter(name, detail string) *Error {
	return &Error{
		Status: http.StatusUnprocessableEntity, Code: CodeInvalidField,
		Detail: "A query parameter is not right.", Fields: []FieldError{{Parameter: name, Detail: detail}},
	}
}

// ErrCursor refuses a cursor that is none of the list's.
var ErrCursor = badParameter("cursor", "is not a cursor of this list; take next_cursor of the page before")

// CursorOf returns the opaque cursor of a list (kind) after the row named last.
func CursorOf(kind, last string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(kind + ":" + last))
}

// limit returns the checked limit.
func (q PageQuery) limit() (int, error) {
	switch {
	case q.Limit == 0:
		return DefaultPage, nil
	case q.Limit < 1 || q.Limit > MaxPage:
		return 0, badParameter("limit", "must be between 1 and 100")
	}
	return q.Limit, nil
}

// After returns the checked limit and the row that the cursor stands after.
func (q PageQuery) After(kind string) (limit int, last string, err error) {
	if limit, err = q.limit(); err != nil || q.Cursor == "" {
		return limit, "", err
	}
	b, err := base64.RawURLEncoding.DecodeString(q.Cursor)
	last, ok := strings.CutPrefix(string(b), kind+":")
	if err != nil || !ok || last == "" || len(last) > MaxSlug || !Printable(last) {
		return 0, "", ErrCursor
	}
	return limit, last, nil
}
