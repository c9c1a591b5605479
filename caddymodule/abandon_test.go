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

// A configuration of which one app does not start may have checked requests until then.
// The one that goes on outweighs it.
func TestFailedReloadOutweighsNothing(t *testing.T) {
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
		t.Fatal("started on an address that is taken")
	}
	if current(t) != running {
		t.Fatal("the configuration before does not go on")
	}
	if !running.compiled.View.Newer(before) {
		t.Error("the configuration that goes on does not outweigh the one that was given up")
	}
}
