package caddymodule

import (
	"errors"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/fileserver"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy/fastcgi"
	"go.uber.org/zap"

	"github.com/keygate-dev/keygate/caddymodule/checkup"
	"github.com/keygate-dev/keygate/caddymodule/redact"
)

// Error routes see the URL of the rejected request. Without a rewrite, file_server in an error
// route would serve the file of that URL, and reverse_proxy would forward the request: the
// response would be the protected one.

// pageRoutes copies a server's error routes for rejected requests. In the copy, handlers that use
// the request's path, such as file_server, run only if an error route has set another path.
type pageRoutes struct {
	ctx    caddy.Context
	server *caddyhttp.Server
	// invoked holds the named routes that are being copied, because named routes may invoke each
	// other in a cycle.
	invoked []string
}

// guard returns the copy of routes and true, or routes itself and false if they need no change.
func (p *pageRoutes) guard(routes caddyhttp.RouteList) (out caddyhttp.RouteList, changed bool, err error) {
	out = routes
	for i := range routes {
		handlers, is, err := p.handlers(routes[i].Handlers)
		if err != nil {
			return nil, false, err
		}
		if !is {
			continue
		}
		if !changed {
			out, changed = slices.Clone(routes), true
		}
		from := &routes[i]
		route := caddyhttp.Route{Group: from.Group, MatcherSets: from.MatcherSets, Handlers: handlers, Terminal: from.Terminal}
		// The handlers are already provisioned; this call only links them.
		if err := route.ProvisionHandlers(p.ctx, nil); err != nil {
			return nil, false, err
		}
		out[i] = route
	}
	return out, changed, nil
}

func (p *pageRoutes) handlers(handlers []caddyhttp.MiddlewareHandler) (out []caddyhttp.MiddlewareHandler, changed bool, err error) {
	out = handlers
	for i, h := range handlers {
		guarded, err := p.handler(h)
		if err != nil {
			return nil, false, err
		}
		if guarded == nil {
			continue
		}
		if !changed {
			out, changed = slices.Clone(handlers), true
		}
		out[i] = guarded
	}
	return out, changed, nil
}

// handler returns the handler that replaces h, or nil if h needs no change.
func (p *pageRoutes) handler(h caddyhttp.MiddlewareHandler) (caddyhttp.MiddlewareHandler, error) {
	switch h := h.(type) {
	case *fileserver.FileServer:
		return pageOnly{h}, nil
	case *reverseproxy.Handler:
		if _, ok := h.Transport.(*fastcgi.Transport); ok || checkup.ProxiesAgain(p.server, h) {
			return pageOnly{h}, nil
		}
	case *caddyhttp.Subroute:
		routes, changed, err := p.guard(h.Routes)
		if err != nil {
			return nil, err
		}
		var failed *caddyhttp.HTTPErrorConfig
		failing := false
		if h.Errors != nil {
			failed = &caddyhttp.HTTPErrorConfig{}
			if failed.Routes, failing, err = p.guard(h.Errors.Routes); err != nil {
				return nil, err
			}
		}
		if changed || failing {
			return &caddyhttp.Subroute{Routes: routes, Errors: failed}, nil
		}
	case *caddyhttp.Invoke:
		route := p.server.NamedRoutes[h.Name]
		if route == nil || slices.Contains(p.invoked, h.Name) {
			return nil, nil
		}
		p.invoked = append(p.invoked, h.Name)
		defer func() { p.invoked = p.invoked[:len(p.invoked)-1] }()
		routes, changed, err := p.guard(caddyhttp.RouteList{*route})
		if err != nil || !changed {
			return nil, err
		}
		return &caddyhttp.Subroute{Routes: routes}, nil
	}
	return nil, nil
}

// pageOnly is a handler that is skipped while the request still has the rejected request's path.
type pageOnly struct{ caddyhttp.MiddlewareHandler }

func (g pageOnly) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if o, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok && o.URL != nil && derived(o.URL.Path, r.URL.Path) {
		return next.ServeHTTP(w, r)
	}
	return g.MiddlewareHandler.ServeHTTP(w, r, next)
}

// derived reports whether path may name the same file as from: path equals from, is the root's
// index, is a part of from, or contains from, as after `try_files {path}.html` or handle_path. A
// rejected path may be ambiguous and name several files, so derived also compares the form that
// Windows reads.
func derived(from, path string) bool {
	path = fileName(path)
	return related(fileName(from), path) || related(fileName(windowsPath(from)), path)
}

func related(from, path string) bool {
	switch {
	case from == path:
		return true
	case from == "":
		return strings.HasPrefix(path, "index.")
	}
	return holdsPath(path, from) || holdsPath(from, path)
}

// fileName returns path in lower case, cleaned and without slashes at its ends, as many file
// systems compare names.
func fileName(p string) string {
	return strings.ToLower(strings.Trim(path.Clean("/"+p), "/"))
}

// windowsPath returns p with slashes for backslashes, and without parameters, and without dots and
// blanks at the ends of segments.
func windowsPath(p string) string {
	p, _, _ = strings.Cut(p, "\x00")
	segments := strings.Split(strings.ReplaceAll(p, `\`, "/"), "/")
	for i, s := range segments {
		s, _, _ = strings.Cut(s, ";")
		if trimmed := strings.TrimRight(s, ". "); trimmed != "" {
			s = trimmed
		}
		segments[i] = s
	}
	return strings.Join(segments, "/")
}

// holdsPath reports whether path contains part as whole segments, where the last segment may have
// a further extension.
func holdsPath(path, part string) bool {
	if part == "" {
		return false
	}
	for at := 0; ; at++ {
		i := strings.Index(path[at:], part)
		if i < 0 {
			return false
		}
		at += i
		end := at + len(part)
		if (at == 0 || path[at-1] == '/') && (end == len(path) || path[end] == '/' || path[end] == '.') {
			return true
		}
	}
}

// refuser writes the responses to a directive's rejected requests.
type refuser struct {
	refusals *refusals
	ctx      caddy.Context
	// errors caches the error routes for rejected requests by *caddyhttp.Server.
	errors sync.Map
}

// answerRefusal writes the response to a rejected request. As for any handler's error, it runs the
// site's handle_errors first. If none of those routes answers, it writes Keygate's own response.
func (f *refuser) answerRefusal(w http.ResponseWriter, r *http.Request, ref *refusal) error {
	server, _ := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if server == nil || server.Errors == nil || len(server.Errors.Routes) == 0 {
		f.refusals.write(w, r, ref)
		return nil
	}
	f.refusals.header(w.Header(), ref)
	cause := caddyhttp.HandlerError{
		StatusCode: f.refusals.answers[ref.reason].status,
		Err:        errors.New(ref.reason.String()),
	}
	vars, _ := r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any)
	if shared := stateOf(redact.Of(vars)); shared != nil {
		shared.rejected = cause
	}
	held := &heldWriter{ResponseWriter: w, refusal: cause.StatusCode, before: describes(w.Header())}
	req := server.Errors.WithError(r, cause)
	// This handler after the last error route writes nothing, so held.sent shows whether a route
	// has answered.
	end := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })
	if err := f.errorRoutes(server).Compile(end).ServeHTTP(held, req); err != nil {
		// An error of the error routes before they answer is ignored: the request is still
		// rejected, with Keygate's own response.
		if held.sent {
			return err
		}
	}
	if !held.sent {
		f.refusals.write(w, r, ref)
	}
	return nil
}

// errorRoutes returns the copy of a server's error routes that rejected requests use.
func (f *refuser) errorRoutes(server *caddyhttp.Server) caddyhttp.RouteList {
	if routes, ok := f.errors.Load(server); ok {
		return routes.(caddyhttp.RouteList)
	}
	routes, _, err := (&pageRoutes{f.ctx, server, nil}).guard(server.Errors.Routes)
	if err != nil {
		// Without error routes, Keygate writes its own response.
		f.ctx.Logger().Error("the site's error routes could not be prepared for rejected requests: those get Keygate's own responses", zap.Error(err))
		routes = nil
	}
	f.errors.Store(server, routes)
	return routes
}

// heldWriter delays the header until an error route answers. An answer is a body, another status
// than the rejection's, or, as for HEAD, a header that describes a body. The rejection's status
// alone is no answer, because Caddy writes it after error routes that did nothing.
type heldWriter struct {
	http.ResponseWriter
	// refusal is the rejection's status.
	refusal int
	// before is the result of describes for the header before the error routes ran.
	before int
	status int
	sent   bool
}

func (w *heldWriter) WriteHeader(status int) {
	if w.sent || status < 200 {
		return
	}
	w.status = status
	if status != w.refusal || describes(w.Header()) > w.before {
		w.send()
	}
}

func (w *heldWriter) send() {
	w.sent = true
	if w.status == 0 {
		w.status = http.StatusOK
	}
	w.ResponseWriter.WriteHeader(w.status)
}

func (w *heldWriter) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if !w.sent {
		w.send()
	}
	return w.ResponseWriter.Write(p)
}

// FlushError does nothing until an error route answers, because flushing would send the header.
func (w *heldWriter) FlushError() error {
	if !w.sent {
		return nil
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// describes returns how many fields of the header describe a body or replace one.
func describes(hdr http.Header) (n int) {
	for _, name := range [...]string{"Content-Type", "Content-Length", "Location"} {
		if _, ok := hdr[name]; ok {
			n++
		}
	}
	return n
}
