package console

import (
	"net/http"
	"net/url"

	"github.com/keygate-dev/keygate/plugin/management"
)

// clean returns s with every key and management token in it written as its shown beginning and "…".
func (h *Handler) clean(s string) string {
	ks, err := h.manager.Keyspace(h.opts.Keyspace)
	if err != nil {
		return "" // nobody can tell what is in it
	}
	return management.CleanTokens(ks.Grammar.Clean(s))
}

// withoutSecrets returns the request with no full key in its query: what a page repeats of its own
// address, in fields and links, must not show one that somebody put there.
func (h *Handler) withoutSecrets(r *http.Request) *http.Request {
	query, found := r.URL.Query(), false
	for _, values := range query {
		for i, v := range values {
			if clean := h.clean(v); clean != v {
				values[i], found = clean, true
			}
		}
	}
	if !found {
		return r
	}
	out := new(http.Request)
	*out = *r
	out.URL = new(url.URL)
	*out.URL = *r.URL
	out.URL.RawQuery = query.Encode()
	return out
}
