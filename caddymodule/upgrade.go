package caddymodule

import (
	"io"
	"net/http"
	"regexp"
	"strings"

	"github.com/keygate-dev/keygate/caddymodule/redact"
	"github.com/keygate-dev/keygate/plugin/rules"
)

// Many WebSocket servers accept an upgrade on any path, so an upgrade on a path without a key
// could open the whole API. Therefore only checked requests may ask for another protocol.

// removedUpgrade holds the fields that removeUpgrade removed from a request.
type removedUpgrade struct {
	upgrade, connection []string

	// The following fields are for an extended CONNECT (RFC 8441, RFC 9220), which removeUpgrade
	// turned into a GET.
	connect  bool
	protocol []string
	proto    string
	body     io.ReadCloser
	length   int64
}

// pseudoProtocol is the header in which Go's HTTP/2 server passes the protocol of an extended
// CONNECT.
const pseudoProtocol = ":protocol"

// isExtendedConnect reports whether r is an extended CONNECT, which reverse_proxy turns into an
// upgrade. The HTTP/3 server passes its protocol in r.Proto.
func isExtendedConnect(r *http.Request) bool {
	return r.Method == http.MethodConnect &&
		(len(r.Header[pseudoProtocol]) > 0 || r.ProtoMajor == 3 && !strings.HasPrefix(r.Proto, "HTTP/"))
}

// removeUpgrade removes from r the request for another protocol. It returns nil if there is none.
func removeUpgrade(r *http.Request) *removedUpgrade {
	connect := isExtendedConnect(r)
	if len(r.Header["Upgrade"]) == 0 && !connect {
		return nil
	}
	u := &removedUpgrade{upgrade: r.Header["Upgrade"], connection: r.Header["Connection"], connect: connect}
	delete(r.Header, "Upgrade")
	left := stripTokens(u.connection, func(token string) bool { return strings.EqualFold(token, "upgrade") })
	setHeader(r.Header, "Connection", left)
	if connect {
		u.protocol, u.proto, u.body, u.length = r.Header[pseudoProtocol], r.Proto, r.Body, r.ContentLength
		delete(r.Header, pseudoProtocol)
		r.Method, r.Body, r.ContentLength = http.MethodGet, http.NoBody, 0
		if r.ProtoMajor == 3 {
			r.Proto = "HTTP/3.0"
		}
	}
	return u
}

// restore puts back what removeUpgrade removed from r. u may be nil.
func (u *removedUpgrade) restore(r *http.Request) {
	if u == nil {
		return
	}
	setHeader(r.Header, "Upgrade", u.upgrade)
	setHeader(r.Header, "Connection", u.connection)
	if u.connect {
		setHeader(r.Header, pseudoProtocol, u.protocol)
		r.Method, r.Proto, r.Body, r.ContentLength = http.MethodConnect, u.proto, u.body, u.length
	}
}

func setHeader(h http.Header, name string, values []string) {
	if len(values) == 0 {
		delete(h, name)
		return
	}
	h[name] = values
}

// dropUpgrade removes from the unchecked request r a request for another protocol, unless
// allow_upgrade names the path.
func (h *Handler) dropUpgrade(log *redact.RequestLog, r *http.Request) {
	if len(r.Header["Upgrade"]) == 0 && r.Method != http.MethodConnect {
		return
	}
	if h.upgrades != nil {
		if path := h.upgrades.Canonicalize(r.URL, true); h.upgrades.Evaluate(http.MethodGet, &path).Class == rules.Public {
			return
		}
	}
	removed := removeUpgrade(r)
	if removed == nil {
		return
	}
	stateOf(log.First()).removed = removed
	if removed.connect {
		log.ErrorMethod = http.MethodGet
	}
	if h.upgradeWarned.Swap(true) {
		return
	}
	path := log.Text(r.URL.Path)
	if !plainPath.MatchString(path) {
		path = "<path>"
	}
	h.log.Warn("an upgrade to another protocol, such as WebSockets, was removed from a request that was not checked: clients must send a key with it; if they may do so without a key, add the given line to the site's keygate directive",
		"line", "allow_upgrade "+path)
}

// plainPath matches a path that needs no quotes in a Caddyfile.
var plainPath = regexp.MustCompile(`^/[A-Za-z0-9._~!$&'()+,;=:@/-]{0,200}$`)
