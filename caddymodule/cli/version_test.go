package cli_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/keygate-dev/keygate/caddymodule/version"
	"github.com/keygate-dev/keygate/plugin/inspect"
)

// The gateway logs one line at its start that names the version, the store and the plans. The
// command status shows the versions of Keygate and Caddy for the gateway and each node.
func TestVersionOfGateway(t *testing.T) {
	s := newShell(t, "unix/DIR/admin.sock", `{
	admin ADMIN
	log default {
		output file DIR/log.json
		format json
	}
	keygate {
		store sqlite DIR/keygate.db
		keyspace shop {
			prefix shop_live_ live
			plan free
			plan pro
		}
	}
}
`)
	var line struct {
		Version, Store, Limits string
		Keyspaces, Plans       []string
	}
	log, err := os.ReadFile(filepath.Join(s.dir, "log.json"))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for l := range strings.Lines(string(log)) {
		if strings.Contains(l, `"msg":"keygate is ready"`) {
			found++
			if err := json.Unmarshal([]byte(l), &line); err != nil {
				t.Fatal(err)
			}
		}
	}
	dir, err := filepath.EvalSymlinks(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	if found != 1 || line.Version != version.String() || line.Store != "sqlite "+filepath.Join(dir, "keygate.db") || line.Limits != "local" ||
		strings.Join(line.Keyspaces, " ") != "shop" || strings.Join(line.Plans, " ") != "shop/free shop/pro" {
		t.Errorf("%d lines, the last %+v", found, line)
	}

	var status inspect.Status
	if err := json.Unmarshal([]byte(s.keygate(0, "status", "--check", "--json")), &status); err != nil {
		t.Fatal(err)
	}
	c, _ := caddy.Version()
	if status.Version != version.String() || status.CaddyVersion != c || len(status.Nodes) != 1 ||
		status.Nodes[0].Version != version.String() || status.Nodes[0].CaddyVersion != c {
		t.Errorf("status %+v", status)
	}
	if out := s.keygate(0, "status"); !strings.Contains(out, version.String()) || !strings.Contains(out, c) {
		t.Errorf("status shows %s", out)
	}
	if out := s.keygate(0, "version"); out != "Keygate "+version.String()+"\nCaddy   "+c+"\n" {
		t.Errorf("version shows %q", out)
	}
}
