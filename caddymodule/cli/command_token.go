package cli

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keygate-dev/keygate/plugin/management/auth"
)

var tokenFlags = []fieldFlag{
	{"name", "name", textField, "Name for people"},
	{"scope", "scopes", listField, "Scope; may be repeated: " + strings.Join(auth.TokenScopes(), ", ")},
	{"tenant", "tenant", clearable, "The one tenant that exists for the token (default: no such bound)"},
	{"expires", "expires_at", momentField, "When the token ends: a duration such as 90d or 24h, an RFC 3339 time, or never"},
}

func tokenCommand() *cobra.Command {
	create := offlineToo(action(&cobra.Command{
		Use: "create", Short: "Makes a management token and prints it, once",
		Long: "Creates a token for the management API on a site with keygate_api, which these commands use with --server. " +
			"It ends, at the latest, with the token by which it is made.",
		Example: "  caddy keygate token create --name ci --scope keys:read --scope keys:write --expires 90d\n" +
			"  caddy keygate token create --name \"Acme's page\" --scope \"*\" --tenant acme",
	}, createToken))
	addFields(create, tokenFlags)

	list := action(&cobra.Command{Use: "list", Short: "Lists management tokens, newest first", Example: "  caddy keygate token list --tenant acme"}, listTokens)
	addListFlags(list, map[string]string{"tenant": "Only those of this tenant"})

	return group(&cobra.Command{Use: "token", Short: "Manages the tokens for the management API on a site", Example: "  caddy keygate token create --name ci --scope keys:read\n  caddy keygate token list"},
		create, list,
		action(&cobra.Command{
			Use: "revoke <token id>", Short: "Ends a management token for good, and all that it made", Args: named("<token id>"),
			Example: "  caddy keygate token revoke tok_01j…",
		}, func(cmd *cobra.Command, args []string) error {
			if strings.HasPrefix(args[0], "kgm_") {
				// It would remain in the shell's history and in the gateway's log.
				return usagef("a token is revoked by its id, tok_…, as in token list; the token itself belongs in no command line")
			}
			return deleteCall(cmd, "/v1/tokens/"+url.PathEscape(args[0]), nil, "Revoked the token "+args[0]+", and all that it made.")
		}))
}

func createToken(cmd *cobra.Command, _ []string) error {
	if !cmd.Flags().Changed("name") {
		return usagef("--name is needed: what will people know the token by?")
	}
	if !cmd.Flags().Changed("scope") {
		return usagef("--scope is needed: what may the token do?")
	}
	body, err := fieldsOf(cmd, tokenFlags)
	if err != nil {
		return err
	}
	c, err := clientOf(cmd)
	if err != nil {
		return err
	}
	var t struct {
		auth.TokenRecord
		Token *string `json:"token"`
	}
	b, err := c.call(cmd.Context(), http.MethodPost, "/v1/tokens", nil, body, &t)
	if err != nil {
		return err
	}
	if asJSON(cmd) {
		return printJSON(cmd, b)
	}
	tenant := text(t.Tenant)
	if tenant == "" {
		tenant = "all of the keyspace " + t.Keyspace
	}
	if err := sheet(cmd.OutOrStdout(),
		"Token", text(t.Token), "ID", t.ID, "Name", t.Name, "Scopes", strings.Join(t.Scopes, " "), "Tenant", tenant,
		"Created", moment(&t.CreatedAt)+" by "+t.CreatedBy, "Expires", moment(t.ExpiresAt),
	); err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "\nCopy the token now: it is not shown again. Put it in %s, or in a file for --token-file.\n", tokenEnv)
	return err
}

func listTokens(cmd *cobra.Command, _ []string) error {
	out := newTable(cmd.OutOrStdout(), "ID", "NAME", "TOKEN", "TENANT", "SCOPES", "STATUS", "LAST USED", "EXPIRES", "MADE BY")
	isJSON, err := listed(cmd, "/v1/tokens", []string{"tenant"}, func(t auth.TokenRecord) {
		by := t.CreatedBy
		if t.CreatedByToken != nil && !strings.Contains(by, *t.CreatedByToken) {
			by += " (" + *t.CreatedByToken + ")"
		}
		out.row(t.ID, t.Name, t.TokenPrefix+"…"+t.LastFour, text(t.Tenant), strings.Join(t.Scopes, " "), string(t.Status),
			moment(t.LastUsedAt), moment(t.ExpiresAt), by)
	})
	if err != nil || isJSON {
		return err
	}
	return out.flush()
}
