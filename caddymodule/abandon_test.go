package caddymodule

import (
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/plugin/gateway"
)

// TestFailedReloadStaysOlder checks a reload that failed because another app could not start. The running configuration
// counts as newer than the failed one, although the failed one may have checked requests for a moment.
func TestFailedReloadStaysOlder(t *testing.T) {
	db := filepath.Join(t.TempDir(), "keys.db")
	if err := load(t, onSQLite(db, &config.PlanConfig{Name: "free"}), nil); err != nil {
		t.Fatal(err)
	}
	running := current(t)
	before := gateway.NewView(running.compiled.View.Hasher)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	err = load(t, onSQLite(db, &config.PlanConfig{Name: "free", Limits: []string{"rate 60/m"}}), caddy.ModuleMap{
		"http": json.RawMessage(fmt.Sprintf(`{"servers": {"a": {"listen": [%q]}}}`, taken.Addr())),
	})
	if err == nil {
		t.Fatal("a configuration with an occupied address started")
	}
	if current(t) != running {
		t.Fatal("the previous configuration does not keep running")
	}
	if !running.compiled.View.Newer(before) {
		t.Error("the running configuration is not newer than the failed one")
	}
}
