package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keygate-dev/keygate/caddymodule/adminapi"
	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/plugin/engine"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/store/sqlite"
)

func backupCommand() *cobra.Command {
	return offlineToo(action(&cobra.Command{
		Use: "backup FILE", Short: "Writes the whole store of the gateway to a new file", Args: named("FILE"),
		Long: "Makes the gateway write its store to a new file on its own machine. The file holds the state of one moment, with every change that was acknowledged before. " +
			"Only the gateway's user may read it. Requests and changes continue meanwhile. An existing file is never overwritten.",
		Example: "  caddy keygate backup /var/backups/keygate-$(date +%F).db\n  caddy keygate backup keygate.bak --offline --config Caddyfile",
	}, backup))
}

func backup(cmd *cobra.Command, args []string) error {
	file, err := filepath.Abs(args[0])
	if err != nil {
		return err
	}
	asked := adminapi.Backup{File: file}
	if offline, _ := cmd.Flags().GetBool("offline"); offline {
		run, err := offlineOf(cmd)
		if err != nil {
			return err
		}
		if _, err = run.open(cmd); err != nil {
			return err
		}
		if asked.Bytes, err = run.store.Backup(cmd.Context(), file); err != nil {
			return err
		}
	} else {
		if cmd.Flags().Changed("server") {
			return usagef("a backup is a file on the gateway's own machine: run the command there, without --server")
		}
		c, err := clientOf(cmd)
		if err != nil {
			return err
		}
		c.http.Timeout = 0 // the time of a backup depends on the size of the store
		if _, err := c.call(cmd.Context(), http.MethodPost, adminapi.BackupPath, nil, asked, &asked); err != nil {
			return err
		}
	}
	if asJSON(cmd) {
		b, err := json.Marshal(asked)
		if err != nil {
			return err
		}
		return printJSON(cmd, b)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "Backed up to %s, %d bytes. Keep copies of the peppers and the secret in another place: without them the keys in the backup can't be checked.\n",
		shown(asked.File), asked.Bytes)
	return err
}

func restoreCommand() *cobra.Command {
	cmd := action(&cobra.Command{
		Use: "restore FILE --config FILE [--as-it-was]", Short: "Replaces the store of a stopped gateway by a backup", Args: named("FILE"),
		Long: "Copies a backup to the path of the store in the configuration. Before that it checks that the backup is complete, not newer than this program and made with the configuration's peppers, " +
			"and that its audit chain is intact. The former store is renamed, not removed. " +
			"Revocations in the former store stay in effect, with an audit event for each: keys that were revoked, disabled or deleted since the backup, tenants that were " +
			"suspended or deleted, secrets that a rotation replaced, and revoked management tokens. All other changes since the backup are lost, and with " +
			"--as-it-was also the revocations.",
		Example: "  caddy keygate restore /var/backups/keygate-2027-01-31.db --config /etc/caddy/Caddyfile",
	}, restore)
	cmd.Flags().Bool("as-it-was", false, "Accept again the keys, tenants, secrets and tokens that were revoked, disabled, suspended or deleted since the backup")
	return cmd
}

func restore(cmd *cobra.Command, args []string) error {
	for _, other := range []string{"server", "token-file", "address"} {
		if cmd.Flags().Changed(other) {
			return usagef("restore does not accept --%s: it works on the files of a stopped gateway", other)
		}
	}
	c, err := configOf(cmd)
	if err != nil {
		return err
	}
	path := c.Path
	if c.Target().Shared() {
		return errors.New("the store of this configuration is in PostgreSQL: restore it with its own tools, such as pg_restore, while no gateway runs")
	}
	keep := keeperOf(cmd, c)
	asItWas, _ := cmd.Flags().GetBool("as-it-was")
	if asItWas {
		keep = nil
	}
	var chain audit.Report
	done, err := sqlite.Restore(cmd.Context(), args[0], path, commandLog(cmd), func(ctx context.Context, s *sqlite.Store) error {
		if err := engine.CheckPeppers(ctx, s, c.View.Hasher); err != nil {
			return err
		}
		var err error
		if chain, err = management.VerifyAudit(ctx, s); err != nil {
			return err
		}
		if !chain.Intact {
			return errors.New("the audit chain was altered: " + strings.Join(chain.Problems, "; "))
		}
		return nil
	}, keep)
	if err != nil {
		return fmt.Errorf("nothing was restored: %w", err)
	}
	if asJSON(cmd) {
		b, err := json.Marshal(map[string]any{"store": path, "replaced": done.Aside, "kept": done.Revocations, "unread": done.Unread != nil, "events": chain.Events, "head": chain.LastHash})
		if err != nil {
			return err
		}
		return printJSON(cmd, b)
	}
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "Restored %s: %d events, last hash %s\n", shown(path), chain.Events, shown(chain.LastHash))
	if done.Aside != "" {
		fmt.Fprintf(out, "The former store is %s. Changes since the backup are lost.\n", shown(done.Aside))
	}
	switch {
	case done.Aside != "" && asItWas:
		_, err = fmt.Fprintln(out, "As requested, revocations since the backup are lost: repeat those that you need.")
	case done.Unread != nil:
		fmt.Fprintf(out, "The former store could not be read completely: %s\n", shown(done.Unread.Error()))
		_, err = fmt.Fprintf(out, "%d revocations could be read from it and stay in effect. "+revocationsLost, done.Revocations)
	case done.Aside == "":
		_, err = fmt.Fprintf(out, "There was no former store. "+revocationsLost)
	case done.Revocations == 0:
		_, err = fmt.Fprintln(out, "There were no revocations since the backup.")
	default:
		_, err = fmt.Fprintf(out, "Kept from the former store: %d revocations (keys revoked, disabled or deleted, tenants suspended or deleted, secrets and tokens ended). See audit.\n", done.Revocations)
	}
	return err
}

// revocationsLost is the advice if the restored store does not hold all revocations since the
// backup.
const revocationsLost = `Keys that were revoked since the backup are accepted again! Before clients reach the gateway:
  1. Find the revocations since then: in webhook deliveries, logs, tickets, a later backup.
  2. Keys: caddy keygate key revoke KEY --offline --config FILE. If a rotation had replaced a secret, rotate the key again.
  3. Tenants and management tokens: start the gateway where clients can't reach it, then use tenant suspend, tenant delete and token revoke.
`

// keeperOf returns the function that writes the former store's revocations into the restored
// store. The audit records the user who runs the command as their actor.
func keeperOf(cmd *cobra.Command, c *config.Compiled) sqlite.RevocationWriter {
	actor := management.Actor{Name: systemUser(), Via: "cli"}
	if name, _ := cmd.Flags().GetString("actor"); name != "" {
		actor.Name = name
	}
	actor.Name += " (restore)"
	var m *management.Manager
	view := c.View
	return func(ctx context.Context, s *sqlite.Store, r management.Revocation) error {
		if m == nil {
			m = management.New(management.Config{
				Store: s, Engine: new(restoringEngine), View: func() *gateway.View { return view },
				Logger: commandLog(cmd), Signer: c.CheckpointSigner,
			})
		}
		if view.Keyspaces[r.Keyspace] == nil {
			// The configuration no longer has this keyspace but may get it again, so its
			// revocations are written too.
			list := []*gateway.Keyspace{{Name: r.Keyspace}}
			for _, ks := range view.Keyspaces {
				list = append(list, ks)
			}
			view = gateway.NewView(view.Hasher, list...)
		}
		r.Actor = actor
		return m.Replay(ctx, r)
	}
}

// restoringEngine is the engine for a restore. No gateway uses the store, so no credits are leased
// and balances may change.
type restoringEngine struct{ offlineEngine }

func (*restoringEngine) WithCredits(_ context.Context, _, _ string, f func() error) error { return f() }
