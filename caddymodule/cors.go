package caddymodule

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/keygate-dev/keygate/caddymodule/config"
)

// allowOrigin sets the headers that let pages of origin read the response, if c allows the origin.
// It reports whether c does. c may be nil.
func allowOrigin(c *config.CORSConfig, hdr http.Header, origin string) bool {
	if c == nil || origin == "" {
		return false
	}
	for _, o := range c.Origins {
		switch {
		case o == "*":
			hdr["Access-Control-Allow-Origin"] = []string{"*"}
			return true
		case strings.EqualFold(o, origin):
			hdr["Access-Control-Allow-Origin"] = []string{origin}
			if c.Credentials || c.RefusalsOnly() {
				hdr["Access-Control-Allow-Credentials"] = []string{"true"}
			}
			return true
		}
	}
	return false
}

// writeCORS sets the headers that let pages of allowed origins read the upstream's response,
// unless the upstream has set them.
func (x *exchange) writeCORS() {
	c := x.h.CORS
	if c == nil || c.RefusalsOnly() || x.rejected || x.preflight || x.w.status == http.StatusSwitchingProtocols {
		return
	}
	hdr := x.w.Header()
	if len(hdr["Access-Control-Allow-Origin"]) > 0 {
		return
	}
	allowOrigin(c, hdr, x.r.Header.Get("Origin"))
	if !c.EveryOrigin() {
		originVary.addTo(hdr, nil)
	}
}

// answersPreflight reports whether the directive answers the request itself: a preflight for a
// method and a path that the directive handles.
func (x *exchange) answersPreflight(path rulePath) bool {
	c := x.h.CORS
	return x.preflight && c != nil && c.Answer && !x.h.rules.set.Evaluate(requestedMethod(x.r), path).Outside
}

var preflightVary = newVaryList([]string{"Origin", "Access-Control-Request-Method", "Access-Control-Request-Headers"})

// maxRequestedHeaders is the maximum length of a preflight's list of headers, in bytes.
const maxRequestedHeaders = 4 << 10

// answerPreflight writes the response to the preflight r.
func answerPreflight(c *config.CORSConfig, w http.ResponseWriter, r *http.Request) {
	hdr := w.Header()
	preflightVary.addTo(hdr, nil)
	if allowOrigin(c, hdr, r.Header.Get("Origin")) {
		methods, headers := c.Methods, c.Headers
		if len(methods) == 0 {
			methods = []string{requestedMethod(r)}
		}
		if len(headers) == 0 {
			headers = requestedHeaders(r)
		}
		hdr["Access-Control-Allow-Methods"] = []string{strings.Join(methods, ", ")}
		if len(headers) > 0 {
			hdr["Access-Control-Allow-Headers"] = []string{strings.Join(headers, ", ")}
		}
		if c.MaxAge > 0 {
			hdr["Access-Control-Max-Age"] = []string{strconv.FormatInt(int64(time.Duration(c.MaxAge)/time.Second), 10)}
		}
	}
	w.WriteHeader(http.StatusNoContent)
}

// requestedMethod returns the method that the preflight r asks for.
func requestedMethod(r *http.Request) string { return r.Header.Get("Access-Control-Request-Method") }

// requestedHeaders returns the header names that the preflight r asks for, or none if the list is
// too long.
func requestedHeaders(r *http.Request) (names []string) {
	list := strings.Join(r.Header["Access-Control-Request-Headers"], ",")
	if len(list) > maxRequestedHeaders {
		return nil
	}
	for name := range strings.SplitSeq(list, ",") {
		if name = strings.Trim(name, " \t"); name != "*" && config.FieldName.MatchString(name) {
			names = append(names, name)
		}
	}
	return names
}

// isPreflight reports whether r is a CORS preflight as browsers send it (Fetch Standard,
// section 4.8): OPTIONS with one origin and one method, without a body and without cookies.
// A browser can't add a credential to a preflight, so a preflight passes unchecked.
func isPreflight(r *http.Request) bool {
	if r.Method != http.MethodOptions {
		return false
	}
	origin, method := r.Header["Origin"], r.Header["Access-Control-Request-Method"]
	return len(origin) == 1 && origin[0] != "" && len(method) == 1 && config.FieldName.MatchString(method[0]) &&
		len(r.Header["Cookie"]) == 0 && hasNoBody(r)
}

// hasNoBody reports whether r has neither a body nor trailers. It looks at the framing, because
// the server and the access log wrap bodies.
func hasNoBody(r *http.Request) bool {
	if len(r.TransferEncoding) > 0 || len(r.Trailer) > 0 {
		return false
	}
	for _, length := range r.Header["Content-Length"] {
		// Go's HTTP/2 server treats a Content-Length that is not a number as 0 but still passes on
		// the body.
		if length != "0" {
			return false
		}
	}
	if r.Body == nil || r.ContentLength == 0 {
		return true
	}
	if r.ContentLength > 0 || r.ProtoMajor != 3 {
		return false
	}
	// Over HTTP/3, only the end of the stream shows that there is no body.
	first := make([]byte, 1)
	n, err := io.ReadFull(r.Body, first)
	if errors.Is(err, io.EOF) {
		return true
	}
	r.Body = &aheadBody{ReadCloser: r.Body, ahead: first[:n], err: err}
	return false
}

// aheadBody is a body of which the beginning was already read. Its Read returns that beginning,
// then the rest.
type aheadBody struct {
	io.ReadCloser
	ahead []byte
	// err is the error that ended reading ahead, or nil if the body continues.
	err error
}

func (b *aheadBody) Read(p []byte) (int, error) {
	if len(b.ahead) > 0 {
		n := copy(p, b.ahead)
		b.ahead = b.ahead[n:]
		return n, nil
	}
	if b.err != nil {
		return 0, b.err
	}
	return b.ReadCloser.Read(p)
}
