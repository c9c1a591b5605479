package cli

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keygate-dev/keygate/plugin/management"
)

func tenantCommand() *cobra.Command {
	create := action(&cobra.Command{
		Use: "create <slug>", Short: "Creates a tenant", Args: named("<slug>"),
		Example: `  caddy keygate tenant create acme --name "Acme" --plan pro --credits 500`,
	}, func(cmd *cobra.Command, args []string) error {
		body, err := fieldsOf(cmd, tenantFlags)
		if err != nil {
			return err
		}
		body["slug"] = args[0]
		return tenantCall(cmd, http.MethodPost, "/v1/tenants", body)
	})
	addFields(create, tenantFlags)

	change := action(&cobra.Command{
		Use: "update <slug>", Short: "Changes the fields of a tenant that have a flag", Args: named("<slug>"),
		Example: "  caddy keygate tenant update acme --plan business --rate \"500/m burst 50\"\n  caddy keygate tenant update acme --rate \"\"",
	}, update(tenantFlags, tenantCall, tenantPath))
	addFields(change, tenantFlags)

	list := action(&cobra.Command{Use: "list", Short: "Lists tenants", Example: "  caddy keygate tenant list --plan free"}, listTenants)
	addListFlags(list, map[string]string{"plan": "Only tenants with this plan"})

	credits := action(&cobra.Command{
		Use: "credits <slug>", Short: "Shows a tenant's credits and their ledger, or adds or spends credits", Args: named("<slug>"),
		Example: "  caddy keygate tenant credits acme\n  caddy keygate tenant credits acme --add 500\n  caddy keygate tenant credits acme --spend 5 --reference job_1",
	}, tenantCredits)
	credits.Flags().Int64("add", 0, "Add this many credits")
	credits.Flags().Int64("spend", 0, "Spend this many credits; rejected if the balance is too low")
	credits.Flags().String("reference", "", "Reference of --add or --spend in the ledger")

	remove := action(&cobra.Command{
		Use: "delete <slug>", Short: "Deletes a tenant; its slug can't be used again", Args: named("<slug>"),
		Example: "  caddy keygate tenant delete acme\n  caddy keygate tenant delete acme --force --erase",
		Long:    "Deletes a tenant. The command fails while the tenant has keys that are not revoked, unless --force deletes them too. To stop a tenant for a time, suspend it.",
	}, func(cmd *cobra.Command, args []string) error {
		query := url.Values{}
		if force, _ := cmd.Flags().GetBool("force"); force {
			query.Set("force", "true")
		}
		if erase, _ := cmd.Flags().GetBool("erase"); erase {
			query.Set("erase", "true")
		}
		return deleteCall(cmd, tenantPath(args[0]), query, "Deleted the tenant "+args[0]+".")
	})
	remove.Flags().Bool("force", false, "Delete the tenant's keys too")
	remove.Flags().Bool("erase", false, "Erase personal data: names and other free text, addresses, last requests and actors; also for a tenant that is already deleted")

	return group(&cobra.Command{Use: "tenant", Short: "Manages tenants, the owners of keys", Example: "  caddy keygate tenant create acme --plan pro\n  caddy keygate tenant list"},
		create, list,
		action(&cobra.Command{Use: "get <slug>", Short: "Shows a tenant", Args: named("<slug>"), Example: "  caddy keygate tenant get acme"},
			func(cmd *cobra.Command, args []string) error {
				return tenantCall(cmd, http.MethodGet, tenantPath(args[0]), nil)
			}),
		change,
		action(&cobra.Command{Use: "suspend <slug>", Short: "Rejects all of a tenant's keys until the tenant is activated", Args: named("<slug>"), Example: "  caddy keygate tenant suspend acme"},
			func(cmd *cobra.Command, args []string) error {
				return tenantCall(cmd, http.MethodPatch, tenantPath(args[0]), map[string]any{"active": false})
			}),
		action(&cobra.Command{Use: "activate <slug>", Short: "Ends a suspension; the state of each key is unchanged", Args: named("<slug>"), Example: "  caddy keygate tenant activate acme"},
			func(cmd *cobra.Command, args []string) error {
				return tenantCall(cmd, http.MethodPatch, tenantPath(args[0]), map[string]any{"active": true})
			}),
		credits, remove)
}

func tenantPath(slug string) string { return "/v1/tenants/" + url.PathEscape(slug) }

// tenantCall is the recordCall for tenants.
func tenantCall(cmd *cobra.Command, method, path string, body map[string]any) error {
	return callAndPrint(cmd, method, path, body, func(t management.TenantRecord) error { return printTenant(cmd, t) })
}

func printTenant(cmd *cobra.Command, t management.TenantRecord) error {
	keys := strconv.Itoa(t.KeysActive)
	if t.MaxKeys != nil {
		keys += " of " + strconv.Itoa(*t.MaxKeys)
	}
	return sheet(cmd.OutOrStdout(),
		"Tenant", t.Slug, "Name", t.Name, "Plan", t.Plan, "State", tenantState(t.Active),
		"Active keys", keys, "Credits", strconv.FormatInt(t.Credits, 10), "Allowed scopes", strings.Join(t.AllowedScopes, " "),
		"Rate", text(t.Rate), "Quota", text(t.Quota), "Concurrency", t.ConcurrencyText(), "Metadata", metadata(t.Metadata),
		"Created", moment(&t.CreatedAt))
}

func tenantState(active bool) string {
	if active {
		return "active"
	}
	return "suspended"
}

func listTenants(cmd *cobra.Command, _ []string) error {
	out := newTable(cmd.OutOrStdout(), "TENANT", "NAME", "PLAN", "STATE", "KEYS", "CREDITS", "CREATED")
	isJSON, err := listed(cmd, "/v1/tenants", []string{"plan"}, func(t management.TenantRecord) {
		out.row(t.Slug, t.Name, t.Plan, tenantState(t.Active), strconv.Itoa(t.KeysActive), strconv.FormatInt(t.Credits, 10), moment(&t.CreatedAt))
	})
	if err != nil || isJSON {
		return err
	}
	return out.flush()
}

func tenantCredits(cmd *cobra.Command, args []string) error {
	path := tenantPath(args[0]) + "/credits"
	flags := cmd.Flags()
	add, spend := flags.Changed("add"), flags.Changed("spend")
	if add && spend {
		return usagef("--add and --spend exclude each other")
	}
	if !add && !spend && flags.Changed("reference") {
		return usagef("--reference is for --add and --spend")
	}
	c, err := clientOf(cmd)
	if err != nil {
		return err
	}
	if add || spend {
		name := "add"
		if spend {
			name = "spend"
		}
		amount, _ := flags.GetInt64(name)
		body := map[string]any{name: amount}
		if ref, _ := flags.GetString("reference"); ref != "" {
			body["reference"] = ref
		}
		var r struct {
			Balance int64 `json:"balance"`
		}
		b, err := c.call(cmd.Context(), http.MethodPost, path, nil, body, &r)
		if err != nil {
			return err
		}
		if asJSON(cmd) {
			return printJSON(cmd, b)
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), "Balance:", r.Balance)
		return err
	}
	var r management.CreditsRecord
	b, err := c.call(cmd.Context(), http.MethodGet, path, nil, nil, &r)
	if err != nil {
		return err
	}
	if asJSON(cmd) {
		return printJSON(cmd, b)
	}
	fmt.Fprintln(cmd.OutOrStdout(), "Balance:", r.Balance)
	if len(r.Data) == 0 {
		return nil
	}
	out := newTable(cmd.OutOrStdout(), "WHEN", "WHAT", "AMOUNT", "BALANCE", "REFERENCE", "BY")
	for _, e := range r.Data {
		by := text(e.Actor)
		if by == "" {
			by = text(e.Key)
		}
		out.row(moment(&e.At), e.Kind, strconv.FormatInt(e.Amount, 10), strconv.FormatInt(e.Balance, 10), text(e.Reference), by)
	}
	return out.flush()
}

// deleteCall sends a DELETE request, and then prints the text in done.
func deleteCall(cmd *cobra.Command, path string, query url.Values, done string) error {
	c, err := clientOf(cmd)
	if err != nil {
		return err
	}
	if _, err = c.call(cmd.Context(), http.MethodDelete, path, query, nil, nil); err != nil {
		return err
	}
	if !asJSON(cmd) {
		_, err = fmt.Fprintln(cmd.OutOrStdout(), shown(done))
	}
	return c.unconfirmed(err)
}
