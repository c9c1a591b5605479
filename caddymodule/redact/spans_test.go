package redact

import (
	"slices"
	"testing"
)

func TestLeakingAttributes(t *testing.T) {
	got := LeakingAttributes(map[string]string{
		"a": "{http.request.orig_uri.path}", "b": "x{http.request.header.X-Api-Key}", "c": "{http.request.method} {keygate.key_id}",
		"d": "{http.request.uri}", "e": "static", "f": "{http.request.remote.host}", "g": "{http.error.message}",
	})
	if want := []string{"a", "b", "d", "g"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
