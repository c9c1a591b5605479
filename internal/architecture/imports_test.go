// Package architecture holds the rules of the code that a compiler does not.
package architecture

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/keygate-dev/keygate/"

// rooms are the packages in the order in which imports may point: from a later one to
// an earlier one, never back, and within a room not at all.
var rooms = [][]string{
	{"plugin/apikey", "plugin/ratelimit", "plugin/transfer"},
	{"plugin/rules"},
	{"plugin/keytable"},
	{"plugin/gateway"},
	{"plugin/cluster"},
	{"plugin/management"},
	// What usage is made of, the store keeps and the API shows.
	{"plugin/usage"},
	{"plugin/api", "plugin/webhook", "plugin/console", "plugin/store"},
	{"plugin/engine"},
	{"caddymodule/version", "caddymodule/adminapi", "caddymodule/redact", "caddymodule/config"},
	{"caddymodule/sites", "caddymodule/cli", "caddymodule/checkup"},
	{"caddymodule"},
	{"cmd"},
}

// room returns the room a package of this module belongs to, -1 for none.
func room(pkg string) int {
	return slices.IndexFunc(rooms, func(names []string) bool {
		return slices.ContainsFunc(names, func(n string) bool { return pkg == n || strings.HasPrefix(pkg, n+"/") })
	})
}

// list runs go list and returns its lines.
func list(t *testing.T, args ...string) []string {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list"}, args...)...).Output()
	if err != nil {
		t.Fatalf("go list %v: %v", args, err)
	}
	return strings.Fields(string(out))
}

// TestImportsPointOneWay holds the layout: what the engine is made of knows nothing of
// what is built on it.
func TestImportsPointOneWay(t *testing.T) {
	for _, line := range list(t, "-f", `{{range .Imports}}{{$.ImportPath}}>{{.}} {{end}}`, module+"...") {
		from, to, _ := strings.Cut(line, ">")
		if !strings.HasPrefix(to, module) {
			continue
		}
		from, to = strings.TrimPrefix(from, module), strings.TrimPrefix(to, module)
		a, b := room(from), room(to)
		if a < 0 || b < 0 {
			continue // demos and benchmarks: nothing of the product imports them
		}
		if b > a || a == b && from != to && !sameRoom(from, to) {
			t.Errorf("%s imports %s: imports point the other way", from, to)
		}
	}
}

// sameRoom says whether two packages are parts of one room, such as plugin/store's.
func sameRoom(a, b string) bool {
	for _, names := range rooms {
		for _, n := range names {
			if strings.HasPrefix(a+"/", n+"/") && strings.HasPrefix(b+"/", n+"/") {
				return true
			}
		}
	}
	return false
}

// TestTheEngineKnowsNoCaddy holds that another proxy would be another glue folder.
func TestTheEngineKnowsNoCaddy(t *testing.T) {
	for _, dep := range list(t, "-deps", module+"plugin/...") {
		if strings.HasPrefix(dep, "github.com/caddyserver/") || strings.HasPrefix(dep, "go.uber.org/zap") {
			t.Errorf("a package under plugin/ depends on %s", dep)
		}
	}
}

// TestTheGatewayNamesNoStore holds that a new store is one package and one line.
func TestTheGatewayNamesNoStore(t *testing.T) {
	for _, dep := range list(t, "-deps", module+"plugin/gateway") {
		if strings.Contains(dep, "sqlite") || strings.HasPrefix(dep, "database/sql") || strings.HasPrefix(dep, module+"plugin/store") {
			t.Errorf("the engine depends on %s", dep)
		}
	}
}
