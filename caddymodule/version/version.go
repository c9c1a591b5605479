// Package version returns the versions of Keygate and Caddy in this program.
package version

import (
	"runtime/debug"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
)

// release is the version of this source. The tagged commit of a release has no "-dev"; the commit
// after it sets the next version with "-dev".
const release = "0.2.0-dev"

// modulePath is the path of this module in a program's build information.
const modulePath = "github.com/keygate-dev/keygate"

// packaged replaces the version, for packages with their own version number. The linker sets it:
//
//	go build -ldflags '-X github.com/keygate-dev/keygate/caddymodule/version.packaged=0.2.0-1' ./cmd/caddy
var packaged string

// revisionLength is the number of characters of a commit's hash in a version.
const revisionLength = 12

// String returns the version of Keygate in this program, such as 0.2.0 or 0.2.0-dev+2676c2047fcd,
// without a leading "v".
var String = sync.OnceValue(func() string {
	info, _ := debug.ReadBuildInfo()
	return versionOf(packaged, info)
})

// versionOf returns the version from a program's build information. info may be nil.
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
	return release // A local checkout replaces the module, so the commit of the module is unknown.
}

// withRevision returns the version of this source. If the source is unreleased or modified, the version ends in the
// commit that the program was built from.
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

// moduleVersion returns the version of a module that xcaddy downloaded. An untagged version ends
// in the commit's time and hash: v0.0.0-20261130195513-2676c2047fcd.
func moduleVersion(v string) string {
	parts := strings.Split(v, "-")
	if n := len(parts); n >= 3 && len(parts[n-1]) == revisionLength {
		return release + "+" + parts[n-1]
	}
	return strings.TrimPrefix(v, "v")
}

// Product returns the names and versions of Keygate and Caddy. Gateways that share a store report
// this text to each other.
func Product() string {
	c, _ := caddy.Version()
	return "keygate/" + String() + " caddy/" + c
}

// ParseProduct returns the versions in a text of Product. Gateways before 0.2.0 reported only
// Caddy's version.
func ParseProduct(product string) (keygate, caddy string) {
	if !strings.HasPrefix(product, "keygate/") {
		return "", product
	}
	keygate, caddy, _ = strings.Cut(strings.TrimPrefix(product, "keygate/"), " caddy/")
	return keygate, caddy
}
