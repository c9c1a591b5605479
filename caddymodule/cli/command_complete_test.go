package cli

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/keygate-dev/keygate/caddymodule/config"
)

// commandTree returns Caddy's root command with the command keygate, and that command.
func commandTree() (root, ours *cobra.Command) {
	root, ours = &cobra.Command{Use: "caddy"}, &cobra.Command{Use: config.AppName, Short: "Manages keys"}
	keygateCommand(ours)
	root.AddCommand(ours)
	return root, ours
}

// Every command's help has an example, and the command accepts the example's arguments and flags.
func TestCommandExamples(t *testing.T) {
	_, ours := commandTree()
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Name() == "help" || cmd.Name() == "completion" {
			return
		}
		if cmd.Short == "" || !strings.Contains(cmd.Example, "caddy keygate ") {
			t.Errorf("%s: short %q, example %q", cmd.CommandPath(), cmd.Short, cmd.Example)
		}
		for line := range strings.Lines(cmd.Example) {
			_, line, _ = strings.Cut(strings.TrimSpace(line), "caddy keygate ")
			args := strings.Fields(strings.NewReplacer(`"`, "", "|", " | ").Replace(line))
			found, rest, err := ours.Find(args)
			if err != nil || cmd.RunE != nil && len(cmd.Commands()) == 0 && found != cmd {
				t.Errorf("%s: the example %q is of %s, %v", cmd.CommandPath(), line, found.CommandPath(), err)
				continue
			}
			for _, arg := range rest {
				name, ok := strings.CutPrefix(arg, "--")
				name, _, _ = strings.Cut(name, "=")
				if ok && name != "" && found.Flags().Lookup(name) == nil && found.InheritedFlags().Lookup(name) == nil {
					t.Errorf("%s: the example %q has the unknown flag --%s", cmd.CommandPath(), line, name)
				}
			}
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(ours)
}

// Fixed words are completed without a gateway, and files are suggested only for arguments and
// flags that take files.
func TestCompletion(t *testing.T) {
	const noFiles = ":4"
	for _, tt := range []struct {
		args []string
		want string // want holds the expected suggestions, followed by cobra's completion directive.
	}{
		{[]string{"usage", "--step", ""}, "hour day " + noFiles},
		{[]string{"usage", "--step", "d"}, "day " + noFiles},
		{[]string{"usage", "--group-by", ""}, "tenant key " + noFiles},
		{[]string{"key", "list", "--status", "r"}, "revoked " + noFiles},
		{[]string{"token", "create", "--scope", "audit"}, "audit:read " + noFiles},
		{[]string{"scanner-rules", "--format", "g"}, "gitleaks github " + noFiles},
		{[]string{"key", "export", "--format", "j"}, "jsonl " + noFiles},
		{[]string{"verify", "--method", "P"}, "POST PUT PATCH " + noFiles},
		{[]string{"key", "create", "--name", ""}, noFiles},
		{[]string{"status", ""}, noFiles},
		{[]string{"tenant", "get", "--address", "127.0.0.1:1", ""}, noFiles}, // no gateway answers
		{[]string{"tenant", "get", "acme", ""}, noFiles},
		{[]string{"backup", ""}, ":0"},
		{[]string{"audit", "--against", ""}, ":0"},
	} {
		root, _ := commandTree()
		var out bytes.Buffer
		root.SetOut(&out)
		root.SetErr(new(bytes.Buffer))
		root.SetArgs(append([]string{cobra.ShellCompNoDescRequestCmd, config.AppName}, tt.args...))
		if err := root.Execute(); err != nil {
			t.Error(err)
		}
		if got := strings.Join(strings.Fields(out.String()), " "); got != tt.want {
			t.Errorf("%q is completed by %q, want %q", tt.args, got, tt.want)
		}
	}
}
