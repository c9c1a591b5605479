package cli

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keygate-dev/keygate/plugin/management"
)

func keyCommand() *cobra.Command {
	create := action(&cobra.Command{
		Use: "create", Short: "Creates a key and prints it once",
		Example: "  caddy keygate key create --tenant acme --name ci --scope deployment --env live --expires 90d",
	}, createKey)
	create.Flags().String("tenant", "", "Tenant that the key belongs to")
	create.Flags().String("env", "", "Environment (default: the keyspace's first)")
	addFields(create, keyFlags)

	list := action(&cobra.Command{Use: "list", Short: "Lists keys, newest first", Example: "  caddy keygate key list --tenant acme --status active"}, listKeys)
	addListFlags(list, map[string]string{
		"tenant": "Only keys of this tenant", "status": "Only keys with this status: active, disabled, revoked or expired", "prefix": "Only keys that begin with this text",
	})

	change := action(&cobra.Command{
		Use: "update <key id>", Short: "Changes the fields of a key that have a flag", Args: named("<key id>"),
		Example: "  caddy keygate key update key_01j… --name ci-2 --scope free --expires never",
	}, update(keyFlags, keyCall, keyPath))
	addFields(change, keyFlags)

	rotate := action(&cobra.Command{
		Use: "rotate <key id>", Short: "Gives a key a new secret and prints it once", Args: named("<key id>"),
		Long:    "Gives a key a new secret. Its id, limits, scopes, audit events and usage stay. The old secret becomes invalid at once, or after the time in --grace.",
		Example: "  caddy keygate key rotate key_01j… --grace 24h",
	}, rotateKey)
	rotate.Flags().String("grace", "", "How long the old secret stays valid: a duration such as 24h, or an RFC 3339 time (default: it becomes invalid at once)")

	return group(&cobra.Command{Use: "key", Short: "Manages API keys", Example: "  caddy keygate key create --tenant acme --name ci\n  caddy keygate key list --tenant acme\n  caddy keygate key revoke key_01j…"},
		create, list,
		action(&cobra.Command{Use: "get <key id>", Short: "Shows a key, without its secret", Args: named("<key id>"),
			Example: "  caddy keygate key get key_01j…"},
			func(cmd *cobra.Command, args []string) error {
				return keyCall(cmd, http.MethodGet, keyPath(args[0]), nil)
			}),
		change, rotate,
		offlineToo(keyState("revoke", "Revokes a key; this can't be undone")),
		keyState("disable", "Rejects a key until it is enabled again"),
		keyState("enable", "Enables a disabled key"),
		offlineToo(importCommand()), offlineToo(exportCommand()),
		action(&cobra.Command{Use: "delete <key id>", Short: "Deletes a key; requests with it are then rejected like those with an unknown key", Args: named("<key id>"),
			Example: "  caddy keygate key delete key_01j…"},
			func(cmd *cobra.Command, args []string) error {
				return deleteCall(cmd, keyPath(args[0]), nil, "Deleted the key "+args[0]+".")
			}))
}

func keyPath(id string) string { return "/v1/keys/" + url.PathEscape(id) }

// issuedKey is a response that holds a full key.
type issuedKey struct {
	management.KeyRecord
	Key  *string `json:"key"`
	Curl *string `json:"curl"`
}

func createKey(cmd *cobra.Command, _ []string) error {
	tenant, _ := cmd.Flags().GetString("tenant")
	if tenant == "" {
		return usagef("--tenant is required: the tenant that the key belongs to")
	}
	if !cmd.Flags().Changed("name") {
		return usagef("--name is required: a name of the key for people")
	}
	body, err := fieldsOf(cmd, keyFlags)
	if err != nil {
		return err
	}
	if cmd.Flags().Changed("env") {
		body["environment"], _ = cmd.Flags().GetString("env")
	}
	_, err = issueCall(cmd, tenantPath(tenant)+"/keys", body)
	return err
}

func rotateKey(cmd *cobra.Command, args []string) error {
	body := map[string]any{}
	if grace, _ := cmd.Flags().GetString("grace"); grace != "" {
		body["grace"] = grace
	}
	c, err := issueCall(cmd, keyPath(args[0])+"/rotate", body)
	if err != nil {
		return err
	}
	return c.unconfirmed(nil) // a node without the change may still accept the old secret
}

// issueCall makes a call whose response holds a full key, and prints the key. The key is never
// shown again. issueCall returns the client that it used.
func issueCall(cmd *cobra.Command, path string, body map[string]any) (*client, error) {
	c, err := clientOf(cmd)
	if err != nil {
		return nil, err
	}
	var k issuedKey
	b, err := c.call(cmd.Context(), http.MethodPost, path, nil, body, &k)
	if err != nil {
		return nil, err
	}
	if asJSON(cmd) {
		return c, printJSON(cmd, b)
	}
	if err := printKey(cmd, k.KeyRecord, text(k.Key)); err != nil {
		return nil, err
	}
	if k.Key == nil {
		_, err = fmt.Fprintln(cmd.OutOrStdout(), "\nThe key was shown when it was created and can't be shown again; rotate it to get a new one.")
		return c, err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "\nCopy the key now: it is not shown again. Try it:\n\n  %s\n", shown(text(k.Curl)))
	return c, err
}

// keyCall is the recordCall for keys.
func keyCall(cmd *cobra.Command, method, path string, body map[string]any) error {
	return callAndPrint(cmd, method, path, body, func(k management.KeyRecord) error { return printKey(cmd, k, "") })
}

func printKey(cmd *cobra.Command, k management.KeyRecord, full string) error {
	scopes := strings.Join(k.Scopes, " ")
	if e := strings.Join(k.EffectiveScopes, " "); e != scopes {
		scopes = orDash(scopes) + " (effective: " + orDash(e) + ")"
	}
	used := moment(k.LastUsedAt)
	if used != "" && k.LastUsedIP != nil {
		used += " from " + *k.LastUsedIP
	}
	pairs := []string{
		"Key", full, "ID", k.ID, "Tenant", k.Tenant, "Name", k.Name, "Description", k.Description,
		"Begins", k.KeyPrefix, "Ends", k.LastFour, "Environment", k.Environment, "Status", string(k.Status), "Scopes", scopes,
		"Created", strings.TrimSuffix(moment(&k.CreatedAt)+" by "+k.CreatedBy, " by "), "Expires", moment(k.ExpiresAt), "Revoked", moment(k.RevokedAt),
		"Last used", used, "Allowed from", strings.Join(k.AllowedIPs, " "),
		"Rate", text(k.Rate), "Quota", text(k.Quota), "Concurrency", k.ConcurrencyText(),
		"Credits limit", number(k.CreditsLimit), "Metadata", metadata(k.Metadata),
	}
	if len(k.Secrets) > 1 {
		for _, s := range k.Secrets {
			state := "…" + s.LastFour + ", created " + moment(&s.CreatedAt)
			if s.ExpiresAt != nil {
				state += ", valid until " + moment(s.ExpiresAt)
			}
			if s.LastUsedAt != nil {
				state += ", last used " + moment(s.LastUsedAt) + " from " + text(s.LastUsedIP)
			}
			pairs = append(pairs, "Secret", state)
		}
	}
	return sheet(cmd.OutOrStdout(), pairs...)
}

func listKeys(cmd *cobra.Command, _ []string) error {
	out := newTable(cmd.OutOrStdout(), "ID", "TENANT", "NAME", "KEY", "ENV", "STATUS", "SCOPES", "LAST USED", "EXPIRES")
	isJSON, err := listed(cmd, "/v1/keys", []string{"tenant", "status", "prefix"}, func(k management.KeyRecord) {
		out.row(k.ID, k.Tenant, k.Name, k.KeyPrefix+"…"+k.LastFour, k.Environment, string(k.Status),
			strings.Join(k.Scopes, " "), moment(k.LastUsedAt), moment(k.ExpiresAt))
	})
	if err != nil || isJSON {
		return err
	}
	return out.flush()
}

// keyState returns the command revoke, disable or enable.
func keyState(verb, short string) *cobra.Command {
	cmd := action(&cobra.Command{
		Use: verb + " <key id>", Short: short, Args: named("<key id>"),
		Example: "  caddy keygate key " + verb + " key_01j… --wait 2s",
	}, func(cmd *cobra.Command, args []string) error {
		c, err := clientOf(cmd)
		if err != nil {
			return err
		}
		body := map[string]any{}
		if wait, _ := cmd.Flags().GetString("wait"); wait != "" {
			body["wait"] = wait
		}
		var r management.Receipt
		b, err := c.call(cmd.Context(), http.MethodPost, keyPath(args[0])+"/"+verb, nil, body, &r)
		if err != nil {
			return err
		}
		if asJSON(cmd) {
			err = printJSON(cmd, b)
		} else {
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is %s on %s.\n", shown(r.ID), shown(string(r.Status)), shown(strings.Join(r.Confirmed, ", ")))
		}
		if err != nil {
			return err
		}
		return pending(r)
	})
	cmd.Flags().String("wait", "", "How long to wait until every node has confirmed (default: 2s)")
	return cmd
}

// pending returns an error that names the nodes without a confirmation of the change in r. It
// returns nil if all have confirmed and the change is stored.
func pending(r management.Receipt) error {
	if len(r.Pending) == 0 && r.Durable {
		return nil
	}
	var b strings.Builder
	for _, p := range r.Pending {
		fmt.Fprintf(&b, "%s has not confirmed", p.Node)
		if p.StopsBy != nil {
			by := p.StopsBy.Add(time.Second - 1) // The time is rounded up to whole seconds, so that the printed time is not too early.
			fmt.Fprintf(&b, " (it stops by %s)", moment(&by))
		}
		b.WriteString("; ")
	}
	if !r.Durable {
		b.WriteString("the change applies, but is not in the database yet: it is stored when the database can be written")
		if r.Cause != "" {
			fmt.Fprintf(&b, " (%s)", r.Cause)
		}
	}
	return errors.New(strings.TrimSuffix(b.String(), "; "))
}
