package console

import (
	"net/http"
	"net/url"

	"github.com/keygate-dev/keygate/plugin/management"
)

// clean returns s with every full key and management token cut to its beginning and "…".
func (h *Handler) clean(s string) string {
	ks, err := h.manager.Keyspace(h.opts.Keyspace)
	if err != nil {
		return "" // Without the keyspace's grammar, keys in s can't be recognized.
	}
	return management.CleanTokens(ks.Grammar.Clean(s))
}

// withoutSecrets returns the request without full keys and tokens in its query, since pages repeat
// the query in fields and links.
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
