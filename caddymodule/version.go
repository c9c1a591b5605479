package caddymodule

import (
	"encoding/json"
	"fmt"
	"runtime/debug"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"
)

// release is the version of this source. A release removes "-dev" from it in the tagged
// commit; the next commit sets the following version with "-dev".
const release = "0.2.0-dev"

// modulePath names this module in a program's build information.
const modulePath = "github.com/keygate-dev/keygate"

// packaged overrides the version where a package has one of its own:
//
//	go build -ldflags '-X github.com/keygate-dev/keygate/caddymodule.packaged=0.2.0-1' ./cmd/caddy
var packaged string

// revisionLength is how many characters of a commit's hash a version shows.
const revisionLength = 12

// Version returns the version of Keygate in this program, such as 0.2.0 or
// 0.2.0-dev+2676c2047fcd. It has no "v" at its start.
var Version = sync.OnceValue(func() string {
	info, _ := debug.ReadBuildInfo()
	return versionOf(packaged, info)
})

// versionOf returns the version that a program's build information tells. Info may be nil.
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

// product names both programs, as gateways that share a store tell each other.
func product() string {
	c, _ := caddy.Version()
	return "keygate/" + Version() + " caddy/" + c
}

// versionsIn reads what product returned. A gateway before 0.2.0 names Caddy's version alone.
func versionsIn(product string) (keygate, caddy string) {
	if !strings.HasPrefix(product, "keygate/") {
		return "", product
	}
	keygate, caddy, _ = strings.Cut(strings.TrimPrefix(product, "keygate/"), " caddy/")
	return keygate, caddy
}

func versionCommand() *cobra.Command {
	return action(&cobra.Command{
		Use: "version", Short: "Prints Keygate's version and Caddy's",
		Long:    "Prints the versions in this program. It asks no gateway; caddy keygate status shows the versions that run.",
		Example: "  caddy keygate version",
	}, printVersion)
}

func printVersion(cmd *cobra.Command, _ []string) error {
	c, _ := caddy.Version()
	if asJSON(cmd) {
		b, err := json.Marshal(map[string]string{"version": Version(), "caddy_version": c})
		if err != nil {
			return err
		}
		return printJSON(cmd, b)
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "Keygate %s\nCaddy   %s\n", Version(), c)
	return err
}
