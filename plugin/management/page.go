package management

import (
	"encoding/base64"
	"net/http"
	"strconv"
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

// errCursor refuses a cursor that is none of the list's.
var errCursor = badParameter("cursor", "is not a cursor of this list; take next_cursor of the page before")

// cursorOf returns the opaque cursor of a list (kind) after the row named last.
func cursorOf(kind, last string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(kind + ":" + last))
}

// after returns the checked limit and the row that the cursor stands after.
func (q PageQuery) after(kind string) (limit int, last string, err error) {
	switch {
	case q.Limit == 0:
		limit = DefaultPage
	case q.Limit < 1 || q.Limit > MaxPage:
		return 0, "", badParameter("limit", "must be between 1 and 100")
	default:
		limit = q.Limit
	}
	if q.Cursor == "" {
		return limit, "", nil
	}
	b, err := base64.RawURLEncoding.DecodeString(q.Cursor)
	last, ok := strings.CutPrefix(string(b), kind+":")
	if err != nil || !ok || last == "" || len(last) > MaxSlug || !printable(last) {
		return 0, "", errCursor
	}
	return limit, last, nil
}

// sequence is after for lists in the order of a sequence ("e"): 0 for the first page.
func (q PageQuery) sequence() (limit int, before int64, err error) {
	limit, last, err := q.after("e")
	if err != nil || last == "" {
		return limit, 0, err
	}
	before, err = strconv.ParseInt(last, 10, 64)
	if err != nil || before < 1 {
		return 0, 0, errCursor
	}
	return limit, before, nil
}
