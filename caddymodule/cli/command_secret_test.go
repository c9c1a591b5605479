package cli_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A command that gets a key instead of the key's id sends nothing, so the admin endpoint can't log
// the key.
func TestKeysAsArguments(t *testing.T) {
	s := newShell(t, "unix/DIR/a.sock", `{
	admin ADMIN
	log {
		output file DIR/caddy.log
	}
	keygate {
		store sqlite DIR/keygate.db
		prefix sk_shop_ live
		plan free {
		}
		default_plan free
	}
}
http://SITE {
	keygate
	respond ok
}
`)
	s.keygate(0, "tenant", "create", "acme")
	var k struct{ ID, Key string }
	if err := json.Unmarshal([]byte(s.keygate(0, "key", "create", "--tenant", "acme", "--name", "ci", "--json")), &k); err != nil {
		t.Fatal(err)
	}
	var token struct{ Token string }
	if err := json.Unmarshal([]byte(s.keygate(0, "token", "create", "--name", "ci", "--scope", "*", "--json")), &token); err != nil {
		t.Fatal(err)
	}
	const usual = "kg_live_Zx81QpLm77TtRrVvNn3344Hh55Gg66Ff"
	for _, args := range [][]string{
		{"key", "revoke", k.Key}, {"usage", "--key", k.Key}, {"audit", "--key", k.Key}, {"key", "list", "--prefix", k.Key[:13]},
		{"tenant", "get", usual}, {"token", "revoke", token.Token}, {"tenant", "list", "--actor", usual},
	} {
		out := s.keygate(2, args...)
		if strings.Contains(out, k.Key[12:]) || strings.Contains(out, token.Token[12:]) {
			t.Errorf("%v prints the secret: %s", args[:2], out)
		}
	}
	// The error advises the command explain, which shows the key's id even for a revoked key.
	s.keygate(0, "key", "revoke", k.ID)
	if out := s.piped(0, k.Key, "explain", "--key-file", "-"); !strings.Contains(out, k.ID) {
		t.Errorf("explain does not show the id: %s", out)
	}
	if out := s.keygate(1, "tenant", "update", "acme", "--name", "had "+k.Key); !strings.Contains(out, "name: must not hold") {
		t.Errorf("a name with a key: %s", out)
	}
	log, err := os.ReadFile(filepath.Join(s.dir, "caddy.log"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(log), "received request") {
		t.Error("the admin endpoint logs nothing")
	}
	for _, secret := range []string{k.Key[12:], token.Token[12:], usual[12:]} {
		if strings.Contains(string(log), secret) {
			t.Errorf("the log holds a secret: %s", log)
		}
	}
}
