// Package version knows the versions of Keygate and Caddy in this program.
package version

import (
	"runtime/debug"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
)

// release is the version of this source. A release removes "-dev" from it in the tagged
// commit; the next commit sets the following version with "-dev".
const release = "0.2.0-dev"

// modulePath names this module in a program's build information.
const modulePath = "github.com/keygate-dev/keygate"

// packaged overrides the version where a package has one of its own:
//
//	go build -ldflags '-X github.com/keygate-dev/keygate/caddymodule/version.packaged=0.2.0-1' ./cmd/caddy
var packaged string

// revisionLength is how many characters of a commit's hash a version shows.
const revisionLength = 12

// String returns the version of Keygate in this program, such as 0.2.0 or
// 0.2.0-dev+2676c2047fcd. It has no "v" at its start.
var String = sync.OnceValue(func() string {
	info, _ := debug.ReadBuildInfo()
	return versionOf(packaged, info)
})

// versionOf returns the version in a program's build information. info may be nil.
func versionOf(packaged string, info *debug.BuildInfo) string {
	if packaged != "" {
		return strings.TrimPrefix(packaged, "v")
	}
	if info == nil {
		return release
	}
	if info.Main.Path == modulePath {
		return withRevision(info.Settings)
	}
	for _, dep := range info.Deps {
		if dep.Path == modulePath && dep.Replace == nil {
			return moduleVersion(dep.Version)
		}
	}
	return release // a checkout that replaces the module, of which nothing is recorded
}

// withRevision adds the commit that the program was built from, where it is recorded.
func withRevision(settings []debug.BuildSetting) string {
	values := make(map[string]string, len(settings))
	for _, s := range settings {
		values[s.Key] = s.Value
	}
	revision := values["vcs.revision"]
	dirty := values["vcs.modified"] == "true"
	if revision == "" || !dirty && !strings.HasSuffix(release, "-dev") {
		return release
	}
	v := release + "+" + revision[:min(revisionLength, len(revision))]
	if dirty {
		v += ".dirty"
	}
	return v
}

// moduleVersion returns the version of a module that xcaddy fetched. A version without a
// tag ends in the commit's time and hash: v0.0.0-20261130195513-2676c2047fcd.
func moduleVersion(v string) string {
	parts := strings.Split(v, "-")
	if n := len(parts); n >= 3 && len(parts[n-1]) == revisionLength {
		return release + "+" + parts[n-1]
	}
	return strings.TrimPrefix(v, "v")
}

// Product returns the names and versions of Keygate and Caddy, as a gateway reports them to the gateways that
// share its store.
func Product() string {
	c, _ := caddy.Version()
	return "keygate/" + String() + " caddy/" + c
}

// ParseProduct returns the versions in what Product returned. A gateway before 0.2.0 reports Caddy's version alone.
func ParseProduct(product string) (keygate, caddy string) {
	if !strings.HasPrefix(product, "keygate/") {
		return "", product
	}
	keygate, caddy, _ = strings.Cut(strings.TrimPrefix(product, "keygate/"), " caddy/")
	return keygate, caddy
}
