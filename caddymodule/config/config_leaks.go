package config

import (
	"os"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/keygate-dev/keygate/plugin/leak"
)

// leaks reads `leaks { … }`.
func (p *parser) leaks(d *caddyfile.Dispenser) error {
	p.lines.note("leaks", d)
	if _, err := args(d, 0, 0, "leaks { … }"); err != nil {
		return err
	}
	p.app.Leaks = new(LeaksConfig)
	return block(d, "leaks", options{
		"github_keys": {parse: func(d *caddyfile.Dispenser) error {
			p.lines.note("leaks.github_keys", d)
			return oneArg(d, "github_keys <file>", &p.app.Leaks.GitHubKeys)
		}},
	})
}

// Load reads the file with GitHub's public keys. It returns nil if the configuration names no
// file.
func (c *LeaksConfig) Load(repl *caddy.Replacer) (*leak.Keys, error) {
	if c == nil || c.GitHubKeys == "" {
		return nil, nil
	}
	path, err := expand(repl, "leaks.github_keys", c.GitHubKeys)
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, Errorf("leaks.github_keys", "reading GitHub's keys: %w; fetch them from https://api.github.com/meta/public_keys/secret_scanning", err)
	}
	keys, err := leak.ParseKeys(b)
	if err != nil {
		return nil, Errorf("leaks.github_keys", "github_keys %s: %w; fetch it from https://api.github.com/meta/public_keys/secret_scanning", path, err)
	}
	return keys, nil
}
