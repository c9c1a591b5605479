package config

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

func TestGitHubKeysFile(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(bad, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/nowhere/keys.json", bad, "{env.NO_SUCH_VARIABLE_IS_SET}"} {
		if _, err := (&LeaksConfig{GitHubKeys: path}).Load(caddy.NewReplacer()); err == nil {
			t.Errorf("%s is taken", path)
		}
	}
	for _, c := range []*LeaksConfig{nil, {}} {
		if keys, err := c.Load(caddy.NewReplacer()); keys != nil || err != nil {
			t.Errorf("%+v: %v, %v", c, keys, err)
		}
	}
}
