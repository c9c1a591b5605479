// Package e2e tests the gateway from the outside, as operators, clients and upstreams use it. It runs a
// real Caddy process on loopback ports with the shipped configurations, a real upstream, the commands and
// the admin endpoint. The tests do not import the gateway's own packages.
//
//	build_test.go      the binaries under test, built once
//	gateway_test.go    one gateway's process: start, stop, kill, restart
//	command_test.go    caddy's commands, and the management API
//	upstream_test.go   the upstream, which records the requests that reach it
//	request_test.go    requests through the gateway, and checks of their responses
//	product_test.go    the five products, and checks that all of them share
//	console_test.go    the console, which is used in a browser
//
// The package is a module of its own, so that libraries for its tests are not requirements of the
// gateway's module. The go command does not know that these tests depend on the gateway's sources. So
// they must be run with -count=1, which disables the cache of test results.
package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/keygate-dev/keygate/e2e/browser"
)

// binaryEnv names the environment variable with the path of a ready binary to test. Without the variable,
// the tests build the binary from this checkout.
const binaryEnv = "KEYGATE_TEST_BINARY"

// buildDir is the directory of the binaries that this run built. TestMain makes and removes it.
var buildDir string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "keygate-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	buildDir = dir
	defer browser.Close()
	flag.Parse()
	if list := flag.Lookup("test.list"); list == nil || list.Value.String() == "" {
		// TestMain builds the binary before the tests, so that a build error is reported once instead of in every
		// test.
		if _, err := caddyBinary(); err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
			return 1
		}
	}
	return m.Run()
}

// caddyBinary returns the gateway's binary, which TestMain has built.
var caddyBinary = sync.OnceValues(func() (string, error) {
	if ready := os.Getenv(binaryEnv); ready != "" {
		return filepath.Abs(ready)
	}
	return build("caddy", false)
})

// racedBinary returns the gateway's binary with the race detector.
var racedBinary = sync.OnceValues(func() (string, error) {
	if os.Getenv(binaryEnv) != "" {
		return caddyBinary()
	}
	return build("caddy-race", true)
})

// concurrent matches the tests whose gateways run under the race detector: the tests of concurrent events
// in one gateway. The gateways of other tests run without the race detector, because it makes a process
// several times slower. The tests of plugin/cluster, plugin/gateway, plugin/ratelimit/redis and
// plugin/store/replica run the code of clusters under the race detector.
var concurrent = regexp.MustCompile(`^Test(ClusterRevokes|ClusterKill|Reload|Kill|StopLosesNothing|Streams|Concurrency|UsageIsExact|WebhooksOutlive)`)

// raced reports whether the gateways of a test run under the race detector. The detector writes its
// findings to the gateway's log, which fails the test. Soak tests measure times, so their gateways never
// run under the race detector.
func raced(t testing.TB) bool { return !soaking && concurrent.MatchString(t.Name()) }

// gatewayBinary returns the binary of a test's gateways.
func gatewayBinary(t testing.TB) string {
	t.Helper()
	if raced(t) {
		return binary(t, racedBinary)
	}
	return binary(t, caddyBinary)
}

// demoBinary returns the program that `make run` runs.
var demoBinary = sync.OnceValues(func() (string, error) { return build("demo", false) })

// build builds cmd/name into buildDir. For "caddy-race" it builds cmd/caddy with the race
// detector.
func build(name string, race bool) (string, error) {
	out := filepath.Join(buildDir, name)
	args := []string{"build", "-o", out, "-ldflags", "-s -w"}
	if race {
		args = append(args, "-race", "-gcflags=modernc.org/sqlite/lib=-race=false")
	}
	c := exec.Command("go", append(args, "./cmd/"+strings.TrimSuffix(name, "-race"))...)
	c.Dir = ".."
	if text, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building cmd/%s: %w\n%s", name, err, text)
	}
	return out, nil
}

// binary returns the path that b returns, and fails the test if b fails.
func binary(t testing.TB, b func() (string, error)) string {
	t.Helper()
	path, err := b()
	if err != nil {
		t.Fatal(err)
	}
	return path
}
