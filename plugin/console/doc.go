// Package console is the web console for people who manage keys. Operators see the whole keyspace; the people of a
// tenant see only their tenant. The package translates between forms and a management.Manager. It contains no rules of
// its own.
//
// # The path of a request
//
// Handler.ServeHTTP (console.go) sets the headers of every page, serves assets (assets.go), and finds the route. A
// route (routes.go) is one line: pattern, audience, scope, and a method of call.
//
// Before the method runs, admit finds the session (session.go) and checks audience and scope. For a POST, admit also
// checks that a page of this session sent the form (guard.go). A person of one tenant gets 404 from routes for
// operators. Management answers 404 for records of other tenants, since c.actor is confined to the tenant.
//
// A method ends with c.render(status, page, title, data), with c.redirect(path, notice), or with an error. fail
// (failure.go) turns a *management.Error into a page with the error's status.
//
// # Pages
//
// A page is a file in templates that defines "main". layout.html wraps it, and parts.html holds the parts that pages
// share. A page gets a *view: {{.Data}} is the page's own data, {{$.To "/keys/" .ID}} makes a link that works at
// every mount, {{$.CSRF}} goes into every form by {{template "csrf" $}}, and {{if $.Can "keys:write"}} hides an
// action that the session lacks the scope for (the route rejects it anyway). format.go has the functions for
// times, numbers and states.
//
// Forms (form.go) keep the typed values, and show each of management's field errors at its field:
// {{template "field" (field .Data.Form "name" "Name" …)}}.
//
// # Scripts
//
// Pages work without scripts. console.js shows times in the reader's zone, copies, warns before a shown key is left, and
// uses portal links. htmx replaces parts that poll (hx-get with hx-trigger="every 5s"; routes that answer a
// fragment render a template of parts.html by c.fragment). A chart is a figure with data-chart and a table of the
// numbers (see parts-usage.html): charts.js reads the table and draws the chart.
//
// The Content-Security-Policy forbids inline scripts and styles, and anything from other origins. Parts that depend on
// the configuration (colour, logo) are assets that Handler makes (theme.go).
//
// # Secrets are shown once
//
// A new full key is only in the response to the POST that created it. The form has a single-use number: if a reload sends
// the form again, no second key is created, and the page says that the key was shown before (showOnce in keyform.go).
package console
