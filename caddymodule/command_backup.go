package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/store/sqlstore"
)

func backupCommand() *cobra.Command {
	return offlineToo(action(&cobra.Command{
		Use: "backup FILE", Short: "Writes all that the gateway's store holds to a new file", Args: named("FILE"),
		Long: "Has the gateway write its store, as it is at one moment, to a new file that only its user may read, on its own machine. " +
			"Requests and changes go on meanwhile. Everything that was acknowledged before is in it. An existing file is not written over.",
		Example: "  caddy keygate backup /var/backups/keygate-$(date +%F).db\n  caddy keygate backup keygate.bak --offline --config Caddyfile",
	}, backup))
}

func backup(cmd *cobra.Command, args []string) error {
	file, err := filepath.Abs(args[0])
	if err != nil {
		return err
	}
	asked := backupRequest{File: file}
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
			return usagef("a backup is a file on the gateway's own machine: run this there, without --server")
		}
		c, err := clientOf(cmd)
		if err != nil {
			return err
		}
		c.http.Timeout = 0 // it takes as long as the store is large
		if _, err := c.call(cmd.Context(), http.MethodPost, backupPath, nil, asked, &asked); err != nil {
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
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "Backed up to %s, %d bytes. Keep the peppers and the secret with it, but elsewhere: without them its keys are of no use.\n",
		shown(asked.File), asked.Bytes)
	return err
}

func restoreCommand() *cobra.Command {
	return action(&cobra.Command{
		Use: "restore FILE --config FILE", Short: "Puts a backup in the place of the store of a gateway that is stopped", Args: named("FILE"),
		Long: "Checks a backup (that it is whole, no newer than this program, made under the configuration's peppers, and that its audit chain is intact) " +
			"and puts a copy of it where the configuration says that the store is. The former store is set aside, not removed. " +
			"Whatever was done since the backup is undone, revocations too.",
		Example: "  caddy keygate restore /var/backups/keygate-2027-01-31.db --config /etc/caddy/Caddyfile",
	}, restore)
}

func restore(cmd *cobra.Command, args []string) error {
	for _, other := range []string{"server", "token-file", "address"} {
		if cmd.Flags().Changed(other) {
			return usagef("restore takes no --%s: it works on the files of a gateway that is stopped", other)
		}
	}
	a, path, err := appOf(cmd)
	if err != nil {
		return err
	}
	if a.place(path).shared() {
		return errors.New("the store of this configuration is in PostgreSQL: restore it with its own tools, such as pg_restore, while no gateway runs")
	}
	var chain management.ChainReport
	aside, err := sqlstore.Restore(cmd.Context(), args[0], path, commandLog(cmd), func(ctx context.Context, s *sqlstore.Store) error {
		if err := checkPeppers(ctx, s, a.view.Hasher); err != nil {
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
	})
	if err != nil {
		return fmt.Errorf("nothing was restored: %w", err)
	}
	if asJSON(cmd) {
		b, err := json.Marshal(map[string]any{"store": path, "replaced": aside, "events": chain.Events, "head": chain.Head})
		if err != nil {
			return err
		}
		return printJSON(cmd, b)
	}
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "Restored %s: %d events, head %s\n", shown(path), chain.Events, shown(chain.Head))
	if aside != "" {
		_, err = fmt.Fprintf(out, "The former store is %s. What was done since the backup is undone: revoke again what was revoked.\n", shown(aside))
	}
	return err
}
