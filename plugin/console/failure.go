package console

import (
	"bytes"
	"errors"
	"net/http"
	"net/url"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/auth"
)

// notices maps the names of notices in URLs to messages about a change that was just made.
var notices = map[string]string{
	"key-updated":     "Saved. The change applies from the next request on.",
	"disabled":        "The key is disabled. Requests with it are rejected until it is enabled.",
	"enabled":         "The key is enabled. Requests with it pass again.",
	"revoked":         "The key is revoked. Every request with it is rejected from now on.",
	"deleted":         "The key is deleted. Its usage and audit log are kept.",
	"limits-reset":    "The limits are reset.",
	"tenant-updated":  "Saved. The change applies from the next request on.",
	"tenant-created":  "The tenant is created. Create its first key next.",
	"suspended":       "The tenant is suspended: all its keys are rejected until it is active again.",
	"activated":       "The tenant is active again. Its keys are unchanged.",
	"tenant-deleted":  "The tenant is deleted. Its slug is never used again.",
	"credits":         "The balance has changed; the ledger below shows it.",
	"webhook-updated": "Saved.",
	"webhook-deleted": "The webhook is deleted.",
	"replayed":        "The event is being delivered again.",
	"token-revoked":   "The token is revoked, with the sessions and tokens that it issued.",
	"session-ended":   "The session has ended.",
}

// failurePage is the page that shows an error.
type failurePage struct {
	Status int
	Detail string
	// Fields are faults that belong to no form.
	Fields []management.FieldError
}

// fail answers with a page about err. A *management.Error keeps its status, and other errors are
// logged and become 503. People who are not signed in are redirected to the sign-in page.
func (c *call) fail(err error) {
	var e *management.Error
	if !errors.As(err, &e) {
		detail := "The store does not answer. Nothing is known to have changed; try again in a moment."
		if !errors.Is(err, gateway.ErrStore) {
			detail = "The page could not be made; the gateway's log has the reason."
		}
		if c.ctx.Err() == nil {
			c.h.log.ErrorContext(c.ctx, "a page of the console failed and was answered 503", "route", c.r.Pattern, "error", err)
		}
		e = &management.Error{Status: http.StatusServiceUnavailable, Detail: detail}
		c.w.Header().Set("Retry-After", "1")
	}
	fragment := c.r.Header.Get("HX-Request") != ""
	if errors.Is(err, auth.ErrNoSession) {
		to := c.path("/sign-in") + "?to=" + url.QueryEscape(c.h.clean(c.r.URL.RequestURI()))
		switch {
		case fragment:
			c.w.Header().Set("HX-Redirect", c.path("/sign-in"))
		case c.r.Method == http.MethodGet || c.r.Method == http.MethodHead:
			c.w.Header().Set("Location", to)
			c.w.WriteHeader(http.StatusSeeOther)
			return
		default:
			_ = c.render(e.Status, "signin", "Sign in", signInPage{Form: newForm(nil), To: "/", Wrong: e.Detail})
			return
		}
	}
	if fragment {
		http.Error(c.w, e.Detail, e.Status)
		return
	}
	title := map[int]string{
		http.StatusNotFound: "Not found", http.StatusForbidden: "Not allowed", http.StatusServiceUnavailable: "Unavailable",
	}[e.Status]
	if title == "" {
		title = "This did not work"
	}
	if err := c.render(e.Status, "failure", title, failurePage{e.Status, e.Detail, e.Fields}); err != nil {
		http.Error(c.w, e.Detail, e.Status)
	}
}

// render answers with the page of that name.
func (c *call) render(status int, page, title string, data any) error {
	v := &view{c: c, Page: page, Title: title, Brand: c.h.opts.Brand, Data: data}
	if status == http.StatusOK && c.r.Method == http.MethodGet {
		v.Notice = notices[c.r.URL.Query().Get("done")]
	}
	t := templates().pages[page]
	if t == nil {
		return errors.New("there is no template " + page)
	}
	return c.write(status, func(b *bytes.Buffer) error { return t.ExecuteTemplate(b, "layout", v) })
}

// fragment answers with a part of a page, for htmx.
func (c *call) fragment(name string, data any) error {
	v := &view{c: c, Page: name, Brand: c.h.opts.Brand, Data: data}
	return c.write(http.StatusOK, func(b *bytes.Buffer) error { return templates().parts.ExecuteTemplate(b, name, v) })
}

// write answers with the output of make. If make fails, nothing is sent.
func (c *call) write(status int, make func(*bytes.Buffer) error) error {
	var b bytes.Buffer
	if err := make(&b); err != nil {
		return err
	}
	h := c.w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Length", itoa(int64(b.Len())))
	c.w.WriteHeader(status)
	if c.r.Method != http.MethodHead {
		_, _ = b.WriteTo(c.w)
	}
	return nil
}
