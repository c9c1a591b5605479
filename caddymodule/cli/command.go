// Package cli implements the command `caddy keygate`: a client of the management API on Caddy's
// admin endpoint or on a site. A few commands can open the store themselves without a running
// gateway; see command_offline.go.
package cli

import (
	"errors"
	"fmt"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

// Exit statuses of the commands, besides 0.
const (
	exitFailed = 1
	exitUsage  = 2
)

// Register adds the command `keygate` to Caddy's commands.
func Register() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "keygate",
		Short: "Manages API keys and the tenants they belong to",
		Long: `
Manages the tenants and API keys of a running gateway: on its own machine through Caddy's
admin endpoint, or from another machine through its keygate_api with --server. A change is
in effect when the command returns.

Without a running gateway, token create, key revoke, key import, key export, audit and
backup open the store themselves: use --offline --config FILE.

Secrets are read from standard input or a file, never from an argument.
Exit status: 0 success, 1 rejected or failed (see standard error), 2 wrong usage.`,
		CobraFunc: keygateCommand,
	})
}

// keygateCommand sets up cmd as the parent of all Keygate commands.
func keygateCommand(cmd *cobra.Command) {
	cmd.Example = `  caddy keygate tenant create acme --name "Acme" --plan pro
  caddy keygate key create --tenant acme --name ci --scope deployment --expires 90d
  caddy keygate key rotate key_01j… --grace 24h
  caddy keygate key revoke key_01j…`
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return exit(cmd, &usageError{err.Error()}) })
	addClientFlags(cmd)
	group(cmd, tenantCommand(), keyCommand(), tokenCommand(), verifyCommand(), explainCommand(), usageCommand(), requestsCommand(), offlineToo(auditCommand()), statusCommand(), backupCommand(), restoreCommand(), scannerRulesCommand(), versionCommand())
	completing(cmd)
}

// usageError is the error of a command that was called with wrong arguments or flags.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// exit prints err on standard error and returns the error that makes Caddy's main exit with the
// right status. For statuses above 1 that error must come from Caddy's own command wrapper.
func exit(cmd *cobra.Command, err error) error {
	if err == nil {
		return nil
	}
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	fmt.Fprintln(cmd.ErrOrStderr(), "Error:", shown(err.Error()))
	var usage *usageError
	if !errors.As(err, &usage) {
		return err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "Run '%s --help' for usage.\n", cmd.CommandPath())
	return caddycmd.WrapCommandFuncForCobra(func(caddycmd.Flags) (int, error) { return exitUsage, nil })(cmd, nil)
}

// action sets f as the function that cmd runs. By default cmd accepts no arguments.
func action(cmd *cobra.Command, f func(*cobra.Command, []string) error) *cobra.Command {
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return exit(cmd, f(cmd, args)) }
	cmd.DisableFlagsInUseLine = true
	if cmd.Args == nil {
		cmd.Args = named()
	}
	return cmd
}

// named returns the check that a command gets exactly one argument for each name, and that none is
// empty.
func named(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return exit(cmd, usagef("%s needs %s", cmd.CommandPath(), names[len(args)]))
		case len(args) > len(names):
			return exit(cmd, usagef("%s does not take the argument %q", cmd.CommandPath(), args[len(names)]))
		}
		for i, arg := range args {
			if arg == "" {
				return exit(cmd, usagef("%s must not be empty", names[i]))
			}
		}
		return nil
	}
}

// group makes cmd the parent of subs. Without RunE, cobra would print help for an unknown
// subcommand and exit with 0.
func group(cmd *cobra.Command, subs ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(subs...)
	cmd.Args = cobra.ArbitraryArgs
	cmd.SuggestionsMinimumDistance = 2
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			cmd.SetOut(cmd.ErrOrStderr())
			_ = cmd.Help()
			return exit(cmd, usagef("%s needs a subcommand", cmd.CommandPath()))
		}
		text := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			text += fmt.Sprintf("; did you mean %q?", near[0])
		}
		return exit(cmd, &usageError{text})
	}
	return cmd
}
