package cli

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func TestExitStatusOfWrongUsage(t *testing.T) {
	t.Setenv(tokenEnv, "")
	for _, args := range []string{
		"", "frob", "key", "key frob", "tenant frob acme", "key get", "key get a b", "key list extra", "key list --nope", "key list --limit x",
		"key create", "key create --tenant acme", "key create --tenant a --name b --expires soon", "key create --tenant a --name b --credits-limit x",
		"key create --tenant a --name b --metadata {", "tenant create", "tenant update acme", "tenant credits acme --add 1 --spend 1", "tenant credits acme --add x",
		"tenant credits acme --reference x", "status --address", "status --server nowhere", "status --token-file x", "status --server https://keys.example.com",
		"status --server https://keys.example.com --address :1",
	} {
		t.Run(args, func(t *testing.T) {
			root, keygate := &cobra.Command{Use: "caddy"}, &cobra.Command{Use: "keygate"}
			keygateCommand(keygate)
			root.AddCommand(keygate)
			var out, errs bytes.Buffer
			root.SetOut(&out)
			root.SetErr(&errs)
			root.SetArgs(append([]string{"keygate"}, strings.Fields(args)...))
			err := root.Execute()
			// Caddy's main takes the exit status from an error with exactly this text.
			if err == nil || err.Error() != "exiting with status 2" || !strings.Contains(errs.String(), "Error:") {
				t.Errorf("ended with %v: %s", err, errs.String())
			}
			if out.Len() > 0 {
				t.Errorf("printed %q on standard output", out.String())
			}
		})
	}
}

func TestShown(t *testing.T) {
	for s, want := range map[string]string{
		"plain Åse ☕": "plain Åse ☕", "a\x1b[31mb": `a\x1b[31mb`, "a\tb\r\n": `a\tb\r\n`, "a\u202eb": `a\u202eb`, "\x00": `\x00`, "\u009b": `\u009b`,
	} {
		if got := shown(s); got != want {
			t.Errorf("%q is shown as %q, want %q", s, got, want)
		}
	}
}

func TestCheckSecret(t *testing.T) {
	for s, rejected := range map[string]bool{
		"key_01j9zq3v5m8w2k4d6f7g8h9jkm": false, "nothing": false, "key_does_not_exist": false, "": false,
		"AKIA0123456789ABCDEF": true, "key_01j9zq3v5m8w2k4d6f7g8h9jk": true, strings.Repeat("a", 64): true,
	} {
		if got := checkSecret(s, true) != nil; got != rejected {
			t.Errorf("%q as a key: rejected %t", s, got)
		}
		// A tenant's slug is an id of the customer's own, so it may look random.
		if err := checkSecret(s, false); err != nil {
			t.Errorf("%q as a tenant: %v", s, err)
		}
	}
}
