package caddymodule

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/keygate-dev/keygate/plugin/rules"
)

// pathReader replaces the path of a request by its canonical form, before any decision depends on
// the path, and logs ambiguous paths.
type pathReader struct {
	// read is the method Canonicalize of a *rules.Paths or a *rules.Set.
	read func(u *url.URL, exempt bool) rules.Path
	// clean removes keys from a text.
	clean func(string) string
	log   *slog.Logger
	// rejected and changed count paths that `report` or `observe` let pass.
	rejected, changed prometheus.Counter

	mu   sync.Mutex
	last map[string]*notice // the keys are message and fault
}

// notice limits one kind of log line to one per second.
type notice struct {
	next    time.Time
	skipped int
}

// maxPathNotices is the greatest number of kinds of log lines; further kinds are not logged.
const maxPathNotices = 64

// newPathReader returns a pathReader that writes to log and counts for keyspace.
func newPathReader(read func(*url.URL, bool) rules.Path, clean func(string) string, log *slog.Logger, keyspace string) *pathReader {
	return &pathReader{
		read: read, clean: clean, log: log,
		rejected: pathsReported.WithLabelValues(keyspace, reportedRejected),
		changed:  pathsReported.WithLabelValues(keyspace, reportedChanged),
		last:     make(map[string]*notice),
	}
}

// pathsReported counts the paths that `report` and `observe` let pass.
var pathsReported = prometheus.NewCounterVec(prometheus.CounterOpts{
	Namespace: "keygate",
	Name:      "paths_reported_total",
	Help:      "Paths that report or observe let pass unchanged, by keyspace and by what would have happened: rejected or changed.",
}, []string{"keyspace", "result"})

// Values of the label result of pathsReported.
const (
	reportedRejected = "rejected"
	reportedChanged  = "changed"
)

// pathVar is the request variable with a path that a pathReader let pass unchanged. Later
// directives let it pass too.
const pathVar = "keygate.path_as_sent"

// canonicalize sets the canonical path in r and in Caddy's copy of the request as it arrived,
// which error routes, {http.request.orig_uri} and FastCGI use. It returns the path; if the path is
// Rejected, r is unchanged. vars are the request's variables. A nil pathReader changes and rejects
// nothing.
func (p *pathReader) canonicalize(r *http.Request, vars map[string]any) rules.Path {
	if p == nil {
		return rules.Path{AsSent: true}
	}
	if !inOriginForm(r) {
		path := p.read(&url.URL{Opaque: "authority"}, false)
		p.notify(r, &path, r.RequestURI)
		return path
	}
	sent := r.URL.EscapedPath()
	outer, _ := vars[pathVar].(string)
	exempt := outer != "" && strings.HasSuffix(outer, sent)
	path := p.read(r.URL, exempt)
	if path.AsSent && path.Escaped != "" && !exempt && vars != nil && (path.Fault != 0 || path.Changed) {
		vars[pathVar] = path.Escaped
	}
	switch {
	case path.Rejected() || path.Reported && !exempt:
		p.notify(r, &path, sent)
		return path
	case path.AsSent:
		return path
	}
	arrived, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	if path.Changed || r.URL.Host != "" || !strings.HasPrefix(r.RequestURI, path.Escaped) {
		setPath(r.URL, &path)
		r.RequestURI = r.URL.RequestURI()
	}
	if !ok || arrived.URL == nil || arrived.URL.Path == path.Decoded && arrived.URL.RawPath == r.URL.RawPath && arrived.URL.Host == "" && strings.HasPrefix(arrived.RequestURI, path.Escaped) {
		return path
	}
	// The path was rewritten before this directive, or it did not arrive in canonical form.
	original := p.read(arrived.URL, false)
	switch {
	case original.Rejected():
		p.notify(r, &original, arrived.URL.EscapedPath())
		return original
	case original.AsSent:
		return path
	}
	if original.Changed || arrived.URL.Host != "" || !strings.HasPrefix(arrived.RequestURI, original.Escaped) {
		// Others may hold a pointer to this URL, so it is changed in place.
		setPath(arrived.URL, &original)
		arrived.RequestURI = arrived.URL.RequestURI()
		*r = *r.WithContext(context.WithValue(r.Context(), caddyhttp.OriginalRequestCtxKey, arrived))
	}
	return path
}

// setPath sets the path of u.
func setPath(u *url.URL, path *rules.Path) {
	u.Path, u.RawPath = path.Decoded, ""
	if u.EscapedPath() != path.Escaped {
		u.RawPath = path.Escaped
	}
}

// inOriginForm reports whether the request target of r is a path, the "*" of OPTIONS, or a URL
// with the request's own host (RFC 9112, section 3.2).
func inOriginForm(r *http.Request) bool {
	u := r.URL
	switch {
	case u.Opaque != "", u.User != nil:
		return false
	case u.Path == "*":
		return r.Method == http.MethodOptions
	case u.Host == "":
		return true
	}
	return r.Method != http.MethodConnect && (u.Scheme == "http" || u.Scheme == "https") && strings.EqualFold(u.Host, r.Host)
}

// notify logs that a path was rejected or changed, or would have been. It counts paths that were
// only reported.
func (p *pathReader) notify(r *http.Request, path *rules.Path, sent string) {
	message := "rejected an ambiguous path"
	switch {
	case path.Reported && path.Fault != 0:
		p.rejected.Inc()
		message = "would have rejected an ambiguous path"
	case path.Reported && path.Changed:
		p.changed.Inc()
		message = "would have changed a path to its canonical form"
	case path.Reported:
		return
	}
	// The kind includes only the lowest fault bit, so that there are few kinds.
	skipped, ok := p.due(message + (path.Fault & -path.Fault).String())
	if !ok {
		return
	}
	if len(sent) > maxLoggedPath {
		sent = sent[:maxLoggedPath]
	}
	attrs := []any{"method", r.Method, "host", r.Host, "path", p.clean(sent)}
	if path.Fault != 0 {
		attrs = append(attrs, "ambiguous", path.Fault.String())
	}
	// paths_line is the line for the paths block that would let this path pass.
	attrs = append(attrs, "paths_line", p.clean(path.Fault.Remedy(sent)))
	if skipped > 0 {
		attrs = append(attrs, "more_since_last_line", skipped)
	}
	p.log.Warn(message, attrs...)
}

// maxLoggedPath is the greatest length of a path in a log line, in bytes.
const maxLoggedPath = 256

// due reports whether a notice of this kind may be logged now, and how many were skipped since the
// last one.
func (p *pathReader) due(kind string) (skipped int, ok bool) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.last[kind]
	if n == nil {
		if len(p.last) == maxPathNotices {
			return 0, false
		}
		n = new(notice)
		p.last[kind] = n
	}
	if now.Before(n.next) {
		n.skipped++
		return 0, false
	}
	skipped, n.skipped, n.next = n.skipped, 0, now.Add(time.Second)
	return skipped, true
}
