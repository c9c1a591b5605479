package e2e

import (
	"slices"
	"strings"
	"testing"
)

// TestCompletion checks that shell completion completes the words of the commands, and asks the gateway
// for slugs, ids, scopes and environments.
func TestCompletion(t *testing.T) {
	t.Parallel()
	s := &site{gateway: start(t, shipped(t, "Caddyfile.example"), newUpstream(t)), product: example}
	s.tenant(t, "acme", record{"name": "Acme Inc"})
	s.tenant(t, "bee", nil)
	k := s.key(t, "acme", record{"name": "ci"})
	for shell, word := range map[string]string{"bash": "complete ", "zsh": "compdef", "fish": "complete ", "powershell": "Register-ArgumentCompleter"} {
		if r := s.command(t, "", "completion", shell).exits(0); !strings.Contains(r.out, word) {
			t.Errorf("%s: no completion", shell)
		}
	}
	for _, tt := range []struct{ args, want string }{
		{"tenant get", "acme bee"}, {"key list --tenant", "acme bee"}, {"key get", k.id}, {"key revoke", k.id}, {"usage --key", k.id},
		{"key create --scope", "admin read write"}, {"status --keyspace", "default"}, {"key create --env", "live"},
	} {
		args := append(append([]string{"__completeNoDesc", "keygate"}, strings.Fields(tt.args)...), "")
		// The flag --address must precede the word that is completed.
		args = slices.Insert(args, 3, "--address", s.adminAddr)
		if fields := strings.Fields(tt.args); len(fields) > 1 && !strings.HasPrefix(fields[1], "--") {
			args = slices.Insert(slices.Delete(args, 3, 5), 4, "--address", s.adminAddr)
		}
		words := strings.Fields(s.command(t, "", args...).exits(0).out)
		words = words[:len(words)-1] // The last line of the output is a directive of the library cobra to the shell, not a word.
		slices.Sort(words)
		if got := strings.Join(words, " "); got != tt.want {
			t.Errorf("%s is completed by %q, want %q", tt.args, got, tt.want)
		}
	}
}
