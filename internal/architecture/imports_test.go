// Package architecture tests rules that the compiler can't check: imports, sizes and words.
package architecture

import (
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/keygate-dev/keygate/"

// layers lists all packages, from the lowest layer to the highest. A package may import packages
// of lower layers. Of its own layer, it may only import packages nested in it or around it. See
// "Map" in docs/architecture.md.
var layers = [][]string{
	{"internal/demoapi", "internal/pathlab", "internal/sfv", "internal/testkit", "internal/testserver", "internal/turns"},
	{"plugin/apikey", "plugin/formmethod", "plugin/leak", "plugin/ratelimit", "plugin/transfer"},
	{"plugin/ratelimit/clients", "plugin/ratelimit/redis", "plugin/rules", "plugin/scanner"},
	{"plugin/keytable"},
	{"plugin/gateway"},
	{"plugin/cluster", "plugin/management/audit"},
	{"plugin/management/events"},
	{"plugin/management"},
	{"plugin/inspect", "plugin/management/auth", "plugin/management/checkpoints", "plugin/management/idempotency", "plugin/management/importer",
		"plugin/management/leaks", "plugin/management/limits", "plugin/management/webhooks", "plugin/usage"},
	{"plugin/api", "plugin/api/apitest", "plugin/console", "plugin/store", "plugin/store/sqlstore", "plugin/store/storetest", "plugin/webhook"},
	{"plugin/store/replication"},
	{"plugin/store/postgres", "plugin/store/sqlite"},
	{"internal/teststore", "plugin/store/replica"},
	{"plugin/store/reserve", "plugin/store/revocations"},
	{"plugin/engine"},
	{"caddymodule/adminapi", "caddymodule/config", "caddymodule/redact", "caddymodule/version"},
	{"caddymodule/checkup", "caddymodule/cli", "caddymodule/sites"},
	{"caddymodule"},
	{"bench", "cmd/caddy", "cmd/demo", "internal/architecture"},
}

// layerOf returns the number of a package's layer, or -1 where no layer lists it.
func layerOf(pkg string) int {
	return slices.IndexFunc(layers, func(packages []string) bool { return slices.Contains(packages, pkg) })
}

// nested reports whether one of the packages is in the other's directory.
func nested(a, b string) bool { return strings.HasPrefix(a, b+"/") || strings.HasPrefix(b, a+"/") }

// list runs go list and returns the fields of its output.
func list(t *testing.T, args ...string) []string {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list"}, args...)...).Output()
	if err != nil {
		t.Fatalf("go list %v: %v", args, err)
	}
	return strings.Fields(string(out))
}

// Every package is listed in a layer, and every import points to a lower layer.
func TestImportsPointDown(t *testing.T) {
	for _, pkg := range list(t, module+"...") {
		if pkg = strings.TrimPrefix(pkg, module); layerOf(pkg) < 0 {
			t.Errorf("%s is in no layer: add it to layers", pkg)
		}
	}
	for _, line := range list(t, "-f", `{{range .Imports}}{{$.ImportPath}}>{{.}} {{end}}`, module+"...") {
		from, to, _ := strings.Cut(line, ">")
		if !strings.HasPrefix(to, module) {
			continue
		}
		from, to = strings.TrimPrefix(from, module), strings.TrimPrefix(to, module)
		if a, b := layerOf(from), layerOf(to); b > a || a == b && !nested(from, to) {
			t.Errorf("%s imports %s, which is not in a lower layer", from, to)
		}
	}
}

// The map in docs/architecture.md names every package, except for those in internal/.
func TestMapNamesEveryPackage(t *testing.T) {
	text, err := os.ReadFile("../../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "\n## Map\n")
	codemap, _, ok := strings.Cut(after, "\n## ")
	if !ok {
		t.Fatal("docs/architecture.md has no section Map")
	}
	for _, pkg := range slices.Concat(layers...) {
		if !strings.HasPrefix(pkg, "internal/") && !strings.Contains(codemap, path.Base(pkg)+"/") {
			t.Errorf("%s is not in the map of docs/architecture.md", pkg)
		}
	}
}

// Code below caddymodule uses nothing of Caddy, and the gateway uses no database. So another proxy
// or another store needs no change there.
func TestForeignImports(t *testing.T) {
	for _, rule := range []struct {
		packages string
		never    []string
	}{
		{"plugin/...", []string{"github.com/caddyserver/*/*", "github.com/caddyserver/*", "go.uber.org/zap", "go.uber.org/zap/*"}},
		{"plugin/gateway", []string{"database/sql", "database/sql/*", "modernc.org/sqlite", "github.com/jackc/pgx/*", module + "plugin/store/*"}},
	} {
		for _, dep := range list(t, "-deps", module+rule.packages) {
			if slices.ContainsFunc(rule.never, func(pattern string) bool {
				ok, err := path.Match(pattern, dep)
				return err != nil || ok
			}) {
				t.Errorf("%s depends on %s", rule.packages, dep)
			}
		}
	}
}
