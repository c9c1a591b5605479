package cli

import (
	"encoding/json"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"

	"github.com/keygate-dev/keygate/caddymodule/version"
)

func versionCommand() *cobra.Command {
	return action(&cobra.Command{
		Use: "version", Short: "Prints Keygate's version and Caddy's",
		Long:    "Prints the versions in this program. For the versions of running gateways use caddy keygate status.",
		Example: "  caddy keygate version",
	}, printVersion)
}

func printVersion(cmd *cobra.Command, _ []string) error {
	c, _ := caddy.Version()
	if asJSON(cmd) {
		b, err := json.Marshal(map[string]string{"version": version.String(), "caddy_version": c})
		if err != nil {
			return err
		}
		return printJSON(cmd, b)
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "Keygate %s\nCaddy   %s\n", version.String(), c)
	return err
}
