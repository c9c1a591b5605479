package api

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/keygate-dev/keygate/plugin/management"
)

// checkQuery rejects parameters that the route does not accept, and parameters that are repeated.
// Otherwise a list with a misspelt filter would return every entry.
func (c *call) checkQuery(params []string) error {
	var fields []management.FieldError
	q := c.r.URL.Query()
	if strings.Contains(c.r.URL.RawQuery, ";") {
		fields = append(fields, management.FieldError{Parameter: ";", Detail: "parameters are separated by &"})
	}
	for name, values := range q {
		switch {
		case name != "keyspace" && !slices.Contains(params, name):
			fields = append(fields, management.FieldError{Parameter: clip(name), Detail: "is not a parameter of this path"})
		case len(values) > 1:
			fields = append(fields, management.FieldError{Parameter: name, Detail: "is repeated"})
		}
	}
	if len(fields) == 0 {
		return nil
	}
	slices.SortFunc(fields, func(a, b management.FieldError) int { return strings.Compare(a.Parameter, b.Parameter) })
	return &management.Error{
		Status: http.StatusUnprocessableEntity, Code: management.CodeUnknownField,
		Detail: "The query has an unknown or repeated parameter.", Fields: fields,
	}
}

func (c *call) query(name string) string { return c.r.URL.Query().Get(name) }

// flag reads a parameter that is true, false or absent.
func (c *call) flag(name string) (bool, error) {
	switch c.query(name) {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	}
	return false, parameterError(name, "must be true or false")
}

// page reads the parameters limit and cursor.
func (c *call) page() (management.PageQuery, error) {
	q := management.PageQuery{Cursor: c.query("cursor")}
	if s := c.query("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n == 0 {
			return q, parameterError("limit", "must be between 1 and 100")
		}
		q.Limit = n
	}
	return q, nil
}

func parameterError(name, detail string) *management.Error {
	return &management.Error{
		Status: http.StatusUnprocessableEntity, Code: management.CodeInvalidField,
		Detail: "A query parameter is invalid.", Fields: []management.FieldError{{Parameter: name, Detail: detail}},
	}
}

// match returns the versions in If-Match, or nil for any version. ETags that are weak or are not a
// version match nothing (RFC 9110, section 13.1.1).
func (c *call) match() management.Match {
	values := c.r.Header.Values("If-Match")
	if len(values) == 0 {
		return nil
	}
	m := management.Match{}
	for _, tag := range strings.Split(strings.Join(values, ","), ",") {
		tag = strings.TrimSpace(tag)
		if tag == "*" {
			return nil
		}
		if len(tag) > 2 && tag[0] == '"' && tag[len(tag)-1] == '"' {
			if v, err := strconv.ParseInt(tag[1:len(tag)-1], 10, 64); err == nil {
				m = append(m, v)
			}
		}
	}
	return m
}

// clip bounds how much of a client's input is repeated in a response.
func clip(s string) string {
	if len(s) > 100 {
		return strings.ToValidUTF8(s[:100], "") + "…"
	}
	return s
}
