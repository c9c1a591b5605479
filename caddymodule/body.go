package caddymodule

import (
	"io"
	"net/http"
)

// trailerBody takes our context headers out of the trailers that arrive with the end
// of the body, before the proxy, which reads through it, copies them.
type trailerBody struct {
	io.ReadCloser
	r         *http.Request
	overrides overrides
}

func (b *trailerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		stripTrailers(b.r, b.overrides)
	}
	return n, err
}
