package caddymodule

import (
	"github.com/keygate-dev/keygate/caddymodule/config"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// allowOrigin lets pages of origin read the response with that header, and reports whether they may. c may be nil.
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

// writeCORS lets pages of allowed origins read a response of the upstream that does not state
// itself who may read it.
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

// answersPreflight reports whether the request is a preflight that is answered here: for a method
// and a path that the directive's matcher takes.
func (x *exchange) answersPreflight(path rulePath) bool {
	c := x.h.CORS
	return x.preflight && c != nil && c.Answer && !x.h.rules.set.Evaluate(requestedMethod(x.r), path).Outside
}

var preflightVary = newVaryList([]string{"Origin", "Access-Control-Request-Method", "Access-Control-Request-Headers"})

// maxRequestedHeaders is how long a list of headers is allowed that a preflight asks for.
const maxRequestedHeaders = 4 << 10

// answerPreflight answers the preflight r.
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

// requestedHeaders returns the names of headers that the preflight r asks for; none where the list is
// longer than any honest one.
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
