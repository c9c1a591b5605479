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

// pathReader replaces the paths of requests by their canonical form, before any decision uses them,
// and logs those that are ambiguous.
type pathReader struct {
	// read reads a path: the Read of a *rules.Paths or a *rules.Set.
	read func(u *url.URL, exempt bool) rules.Path
	// clean returns a text without keys.
	clean func(string) string
	log   *slog.Logger
	// rejected and changed count the paths that are only reported.
	rejected, changed prometheus.Counter

	mu   sync.Mutex
	last map[string]*notice // by message and fault
}

// notice limits one kind of log line to one a second.
type notice struct {
	next    time.Time
	skipped int
}

// maxPathNotices bounds how many kinds of notices are remembered.
const maxPathNotices = 64

// newPathReader returns a reader that logs to log and counts for keyspace.
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
	Help:      "Paths that were only reported, by keyspace and result: rejected or changed, had they not been.",
}, []string{"keyspace", "result"})

// The results of pathsReported.
const (
	reportedRejected = "rejected"
	reportedChanged  = "changed"
)

// pathVar holds the path of a request that a reader let pass as it came, so that a later directive
// does too.
const pathVar = "keygate.path_as_sent"

// canonicalize gives r its canonical path, in r and in the request as it arrived, which error
// routes, {http.request.orig_uri} and FastCGI use. It returns the path, which may be Rejected: r is
// unchanged then. vars are the request's variables. A nil reader changes and rejects nothing.
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
	// The path was rewritten before this directive, or is not canonical.
	original := p.read(arrived.URL, false)
	switch {
	case original.Rejected():
		p.notify(r, &original, arrived.URL.EscapedPath())
		return original
	case original.AsSent:
		return path
	}
	if original.Changed || arrived.URL.Host != "" || !strings.HasPrefix(arrived.RequestURI, original.Escaped) {
		// The URL may be held elsewhere too: it is changed where it is.
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

// inOriginForm reports whether the target of r is a path, the "*" of OPTIONS, or a URL of the host
// that the request is for (RFC 9112, section 3.2).
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

// notify logs that a path was rejected, or would have been, and counts it where it was only
// reported.
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
	// Only the first fault makes the kind, so that there are few kinds.
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
	// The line of the paths block that lets such a path pass.
	attrs = append(attrs, "paths_line", p.clean(path.Fault.Remedy(sent)))
	if skipped > 0 {
		attrs = append(attrs, "more_since_last_line", skipped)
	}
	p.log.Warn(message, attrs...)
}

// maxLoggedPath bounds what a log line shows of a path, in bytes.
const maxLoggedPath = 256

// due reports whether a notice of this kind is to be written now, and how many were skipped since
// the last one.
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
