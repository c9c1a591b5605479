package caddymodule

import (
	"net/http"
	"path"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/fileserver"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy/fastcgi"
	"github.com/keygate-dev/keygate/caddymodule/checkup"
)

// Error routes see the URL of the request. There file_server serves its file under the error's status, and
// reverse_proxy sends it to the upstream: without a rewrite the response would be the very one that was refused.

// pageRoutes copies a server's error routes for rejected requests. In the copy, handlers that serve the
// file a path names answer only where an error route has named another one.
type pageRoutes struct {
	ctx    caddy.Context
	server *caddyhttp.Server
	// invoked are the named routes that are being copied: they may invoke one another.
	invoked []string
}

// guard returns the copy; routes themselves where nothing in them serves files. changed reports whether
// it is a copy.
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
		// The handlers are provisioned: this only chains them.
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

// Handler returns what takes h's place, nil where h stays.
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

// pageOnly passes a rejected request on where its path is still the one that was rejected.
type pageOnly struct{ caddyhttp.MiddlewareHandler }

func (g pageOnly) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if o, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok && o.URL != nil && derived(o.URL.Path, r.URL.Path) {
		return next.ServeHTTP(w, r)
	}
	return g.MiddlewareHandler.ServeHTTP(w, r, next)
}

// derived reports whether path is from, the index of the root, a part of from, or from with something
// around it: as after `try_files {path}.html` or handle_path. An ambiguous path that was rejected may
// name several files, so from is compared in each form that leads to one.
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

// fileName returns path as file systems compare names, without slashes around it.
func fileName(p string) string {
	return strings.ToLower(strings.Trim(path.Clean("/"+p), "/"))
}

// windowsPath returns p with backslashes turned, and without parameters, dots and blanks at the ends
// of its segments.
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

// holdsPath reports whether part stands in path as whole segments, but for an extension.
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
