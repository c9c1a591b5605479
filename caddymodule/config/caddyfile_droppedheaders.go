package config

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	"github.com/keygate-dev/keygate/plugin/apikey"
)

// Caddy removes a header whose name contains an underscore or a dot before any handler sees it. Caddy keeps the header only
// if the server lists its name in expected_underscore_headers or expected_dot_headers. A listed name makes Caddy remove the
// spelling with hyphens instead. A key in a removed header would never be found.

// ExpectedHeaders holds the lists expected_underscore_headers and expected_dot_headers of one
// server.
type ExpectedHeaders struct{ Underscore, Dot []string }

// Drops reports whether the server removes a request header with this name.
func (e ExpectedHeaders) Drops(name string) bool {
	name = http.CanonicalHeaderKey(name)
	underscore, dot := strings.Contains(name, "_"), strings.Contains(name, ".")
	switch {
	case underscore && dot:
		return !expected(e.Underscore, name, false) && !expected(e.Dot, name, false)
	case underscore:
		return !expected(e.Underscore, name, true)
	case dot:
		return !expected(e.Dot, name, true)
	}
	return expected(hyphens(e.Underscore, "_"), name, true) || expected(hyphens(e.Dot, "."), name, true)
}

// expected reports whether one of the entries matches a canonical header name. With globs, an
// entry may end in "*".
func expected(entries []string, name string, globs bool) bool {
	for _, entry := range entries {
		prefix, glob := strings.CutSuffix(entry, "*")
		prefix = http.CanonicalHeaderKey(prefix)
		if !glob && prefix == name || glob && globs && strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// hyphens returns the entries with hyphens in place of sep.
func hyphens(entries []string, sep string) []string {
	out := make([]string, len(entries))
	for i, entry := range entries {
		out[i] = strings.ReplaceAll(entry, sep, "-")
	}
	return out
}

// RemedyDropped returns the advice for a credential header that the server drops.
func RemedyDropped(name string) string {
	option := "expected_underscore_headers"
	switch {
	case strings.Contains(name, "."):
		option = "expected_dot_headers"
	case !strings.Contains(name, "_"):
		return fmt.Sprintf("the server drops the header %s, as expected_underscore_headers or expected_dot_headers lists the same name with '_' or '.': remove it there, or remove the header from credentials", name)
	}
	return fmt.Sprintf("Caddy drops headers whose names contain '_' or '.', so no key in %s is ever found: choose a name with hyphens, or state the global option servers { %s %s }", name, option, name)
}

// checkDropped returns an error if the directive's keyspace reads keys from a header that Caddy
// drops. At this point no server is known, so the header may be listed in the options of any
// server.
func checkDropped(h httpcaddyfile.Helper, a *Config, keyspace string) error {
	name, err := a.Resolve(keyspace)
	if err != nil {
		return err
	}
	var any ExpectedHeaders
	for _, options := range serverOptions(h) {
		any.Underscore = append(any.Underscore, options.ExpectedUnderscoreHeaders...)
		any.Dot = append(any.Dot, options.ExpectedDotHeaders...)
	}
	for i, place := range a.Configured()[name].Credentials {
		if place.Kind == apikey.InHeader && strings.ContainsAny(place.Name, "_.") && any.Drops(place.Name) {
			return Errorf(fmt.Sprintf("keyspaces.%s.credentials[%d]", name, i), "credentials: %s", RemedyDropped(place.Name))
		}
	}
	return nil
}

// serverOption holds the header lists of one global option `servers`.
type serverOption struct{ ExpectedUnderscoreHeaders, ExpectedDotHeaders []string }

// serverOptions returns the header lists of the global options `servers`, whose type is private to
// Caddy. It returns none if they can't be read; package checkup examines the built servers later.
func serverOptions(h httpcaddyfile.Helper) (options []serverOption) {
	if text, err := json.Marshal(h.Option("servers")); err == nil {
		_ = json.Unmarshal(text, &options)
	}
	return options
}

// locateGlobal adds file and line to an error about a field of the global option. It uses the line of the field, or else the
// present line of d.
func locateGlobal(d *caddyfile.Dispenser, err error) error {
	LastAdapted.mu.Lock()
	defer LastAdapted.mu.Unlock()
	return LastAdapted.global.locate(d, err)
}
