package cli

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"github.com/spf13/cobra"

	"github.com/keygate-dev/keygate/plugin/api"
	"github.com/keygate-dev/keygate/plugin/scanner"
)

func scannerRulesCommand() *cobra.Command {
	cmd := action(&cobra.Command{
		Use: "scanner-rules", Short: "Prints rules that find the keyspace's keys in code",
		Long:    "Prints rules for gitleaks, TruffleHog or GitHub's custom patterns, made from the shapes of keys that the gateway issues and accepts. A match has the shape of a key; only the gateway knows whether it is one.",
		Example: "  caddy keygate scanner-rules > .gitleaks.toml\n  caddy keygate scanner-rules --format trufflehog > keys.yaml",
	}, scannerRules)
	cmd.Flags().String("format", string(scanner.Gitleaks), "Tool that the rules are for: gitleaks, trufflehog or github")
	return cmd
}

func scannerRules(cmd *cobra.Command, _ []string) error {
	format, _ := cmd.Flags().GetString("format")
	if !slices.Contains(scanner.Formats(), scanner.Format(format)) {
		return usagef("--format is gitleaks, trufflehog or github, not %q", format)
	}
	c, err := clientOf(cmd)
	if err != nil {
		return err
	}
	var r api.ScannerRules
	b, err := c.call(cmd.Context(), http.MethodGet, "/v1/scanner-rules", url.Values{"format": {format}}, nil, &r)
	if err != nil {
		return err
	}
	if asJSON(cmd) {
		return printJSON(cmd, b)
	}
	_, err = fmt.Fprint(cmd.OutOrStdout(), r.Rules)
	return err
}
