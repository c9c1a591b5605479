// Package console is the web console: the page on which people manage keys. Operators see all
// of a keyspace there, a tenant's own people their tenant only. It translates between
// forms and a management.Manager and has no rule of its own.
//
// # How a request goes
//
// Handler.ServeHTTP (console.go) sets the headers that hold for every page, serves assets (assets.go), and
// finds the route. A route (routes.go) is a line: pattern, who it is for, the scope that it takes, and a
// method of call. Before the method runs, admit has found the session (session.go), checked who and
// scope, and, for a POST, that it was sent by a page of ours (guard.go: Sec-Fetch-Site, Origin, and the
// session's token in the form). Whoever is confined to a tenant gets 404 from operators' routes and for
// all that is not theirs, the latter by management itself: every call passes c.actor, which is confined.
//
// A method ends in c.render(status, page, title, data), in c.redirect(path, notice), or with an error:
// fail (failure.go) turns a *management.Error into a page of its status.
//
// # Pages
//
// A page is a file in templates, which defines "main"; layout.html stands around it, parts.html
// holds what pages share. It gets a *view: {{.Data}} is the page's own, {{$.To "/keys/" .ID}} makes a
// link that holds wherever the console is mounted, {{$.CSRF}} goes into every form by {{template "csrf" $}}, and
// {{if $.Can "keys:write"}} hides what the session may not do (the route refuses it all the same).
// format.go has the functions for times, numbers and states.
//
// Forms (form.go) keep what was typed and put each of management's field errors beside its
// field: {{template "field" (field .Data.Form "name" "Name" …)}}.
//
// # Moving parts
//
// Pages work without scripts. console.js puts times into the reader's zone, copies, warns before a shown key is left, and
// spends portal links. htmx replaces what polls (hx-get with hx-trigger="every 5s"; routes that answer a
// fragment render a template of parts.html by c.fragment). A chart is a figure with data-chart whose table
// holds the numbers (see "chart" in parts.html): charts.js reads them from there and draws, and
// without scripts the table is what one sees.
//
// Nothing is inline, neither script nor style, and nothing comes from elsewhere: the
// Content-Security-Policy says so. What depends on the configuration (colour, logo) is an asset that
// Handler makes (theme.go).
//
// # What is shown once
//
// A new full key stands in the answer to the POST that made it and nowhere else. The form carries a
// number that is good for one key (management's Begin), so that sending it again by a reload makes no
// second key and shows that there was one.
package console
