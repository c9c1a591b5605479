package caddymodule

import (
	"errors"
	"github.com/keygate-dev/keygate/caddymodule/config"
	"io"
	"net/http"
)

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

// hasNoBody reports whether r has neither a body nor trailers. The server and the access log
// wrap bodies, so the body's type does not tell: its framing does.
func hasNoBody(r *http.Request) bool {
	if len(r.TransferEncoding) > 0 || len(r.Trailer) > 0 {
		return false
	}
	for _, length := range r.Header["Content-Length"] {
		// HTTP/2 servers take a length that is no number for 0, and read the body nevertheless.
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
	// Over HTTP/3 only the end of the stream tells that there is no body.
	first := make([]byte, 1)
	n, err := io.ReadFull(r.Body, first)
	if errors.Is(err, io.EOF) {
		return true
	}
	r.Body = &aheadBody{ReadCloser: r.Body, ahead: first[:n], err: err}
	return false
}

// aheadBody is a body of which a part was read ahead of the handlers behind: it returns that
// part, then the rest.
type aheadBody struct {
	io.ReadCloser
	ahead []byte
	// err is the error that ended reading ahead, nil where there is more to read.
	err error
}

// Read implements io.Reader.
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
