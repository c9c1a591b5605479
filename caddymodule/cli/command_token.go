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
	{"tenant", "tenant", clearable, "The only tenant that the token can see (default: all tenants)"},
	{"expires", "expires_at", momentField, "Expiry of the token: a duration such as 90d or 24h, an RFC 3339 time, or never"},
}

func tokenCommand() *cobra.Command {
	create := offlineToo(action(&cobra.Command{
		Use: "create", Short: "Creates a management token and prints it once",
		Long: "Creates a token for the management API on a site with keygate_api, which these commands use with --server. " +
			"It expires at the latest with the token that creates it.",
		Example: "  caddy keygate token create --name ci --scope keys:read --scope keys:write --expires 90d\n" +
			"  caddy keygate token create --name \"Acme's page\" --scope \"*\" --tenant acme",
	}, createToken))
	addFields(create, tokenFlags)

	list := action(&cobra.Command{Use: "list", Short: "Lists management tokens, newest first", Example: "  caddy keygate token list --tenant acme"}, listTokens)
	addListFlags(list, map[string]string{"tenant": "Only tokens of this tenant"})

	return group(&cobra.Command{Use: "token", Short: "Manages the tokens for the management API on a site", Example: "  caddy keygate token create --name ci --scope keys:read\n  caddy keygate token list"},
		create, list,
		action(&cobra.Command{
			Use: "revoke <token id>", Short: "Revokes a management token, and all tokens that it created", Args: named("<token id>"),
			Example: "  caddy keygate token revoke tok_01j…",
		}, func(cmd *cobra.Command, args []string) error {
			if strings.HasPrefix(args[0], "kgm_") {
				// A token in an argument stays in the shell's history and reaches the gateway's
				// log.
				return usagef("name the token by its id, tok_…, which token list shows; never put the token itself into a command line")
			}
			return deleteCall(cmd, "/v1/tokens/"+url.PathEscape(args[0]), nil, "Revoked the token "+args[0]+", and all tokens that it created.")
		}))
}

func createToken(cmd *cobra.Command, _ []string) error {
	if !cmd.Flags().Changed("name") {
		return usagef("--name is required: a name of the token for people")
	}
	if !cmd.Flags().Changed("scope") {
		return usagef("--scope is required: the permissions of the token")
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
	out := newTable(cmd.OutOrStdout(), "ID", "NAME", "TOKEN", "TENANT", "SCOPES", "STATUS", "LAST USED", "EXPIRES", "CREATED BY")
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
