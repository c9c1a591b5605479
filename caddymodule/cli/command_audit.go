package cli

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keygate-dev/keygate/plugin/management/audit"
)

func auditCommand() *cobra.Command {
	cmd := action(&cobra.Command{
		Use: "audit", Short: "Shows who changed what, newest first, or verifies the audit chain",
		Long: `Shows who changed what, newest first.

With --verify it checks the chain of hashes over all events: it finds events that were
changed, inserted or removed from the middle. A chain that was cut short or rewritten as a
whole is found by checkpoints: signed positions of the chain that are kept elsewhere.
--head prints the current checkpoint, and the gateway logs one in every hour with new events.
--against compares with a file of checkpoints: output of --head --json, lines of the
gateway's log, or bodies of webhook deliveries.`,
		Example: `  caddy keygate audit --tenant acme --limit 20
  caddy keygate audit --head --json >> heads.jsonl
  caddy keygate audit --verify
  caddy keygate audit --verify --against heads.jsonl
  grep '"audit head"' caddy.log | caddy keygate audit --verify --against -`,
	}, runAudit)
	addListFlags(cmd, map[string]string{"key": "Only about this key", "tenant": "Only about this tenant"})
	f := cmd.Flags()
	f.Bool("verify", false, "Check the chain of all events")
	f.Bool("head", false, "Print a checkpoint of the chain, to be kept elsewhere")
	f.String("against", "", "With --verify: file of checkpoints that were kept elsewhere; - for standard input")
	f.StringArray("public-key", nil, "With --against: also accept checkpoints signed with this key, in base64, such as that of a former secret; may be repeated")
	return cmd
}

func runAudit(cmd *cobra.Command, _ []string) error {
	flags := cmd.Flags()
	verify, _ := flags.GetBool("verify")
	head, _ := flags.GetBool("head")
	switch {
	case verify && head:
		return usagef("--verify and --head exclude each other")
	case flags.Changed("against") && !verify:
		return usagef("--against is for --verify")
	case flags.Changed("public-key") && !flags.Changed("against"):
		return usagef("--public-key is for --against")
	}
	if verify || head {
		for _, name := range []string{"key", "tenant", "limit", "cursor"} {
			if flags.Changed(name) {
				return usagef("--%s is for listing events", name)
			}
		}
	}
	switch {
	case verify:
		return verifyChain(cmd)
	case head:
		return printCheckpoint(cmd)
	}
	out := newTable(cmd.OutOrStdout(), "WHEN", "WHO", "FROM", "VIA", "WHAT", "TARGET", "CHANGED")
	isJSON, err := listed(cmd, "/v1/audit", []string{"key", "tenant"}, func(e audit.Record) {
		changed := ""
		if e.Before != nil && e.After != nil {
			changed = strings.Join(slices.Sorted(maps.Keys(e.After)), " ")
		}
		out.row(moment(&e.At), e.Actor, text(e.IP), e.Via, e.Action, e.Target, changed)
	})
	if err != nil || isJSON {
		return err
	}
	return out.flush()
}

// printCheckpoint prints the current checkpoint of the audit chain. With --json it is one line, so
// that a file can collect checkpoints.
func printCheckpoint(cmd *cobra.Command) error {
	c, err := clientOf(cmd)
	if err != nil {
		return err
	}
	var h audit.Checkpoint
	if _, err := c.call(cmd.Context(), http.MethodGet, "/v1/audit/head", nil, nil, &h); err != nil {
		return err
	}
	if asJSON(cmd) {
		b, err := json.Marshal(h)
		if err == nil {
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", b)
		}
		return err
	}
	signature, public := "none: the configuration has no secret to sign with", ""
	if len(h.Signature) > 0 {
		signature, public = base64.StdEncoding.EncodeToString(h.Signature), base64.StdEncoding.EncodeToString(h.PublicKey)
	}
	return sheet(cmd.OutOrStdout(), "Store", h.Store, "Keyspace", text(h.Keyspace), "Event", strconv.FormatInt(h.Seq, 10),
		"Events", strconv.FormatInt(h.Events, 10), "Hash", h.Hash, "Time", moment(&h.At), "Signature", signature, "Key", text(h.KeyID), "Public key", public)
}

func verifyChain(cmd *cobra.Command) error {
	c, err := clientOf(cmd)
	if err != nil {
		return err
	}
	file, _ := cmd.Flags().GetString("against")
	if !cmd.Flags().Changed("against") {
		var r audit.Report
		b, err := c.call(cmd.Context(), http.MethodGet, "/v1/audit/verify", nil, nil, &r)
		if err != nil {
			return err
		}
		return printChain(cmd, b, r)
	}
	checkpoints, err := readCheckpoints(cmd, file)
	if err != nil {
		return err
	}
	keys, _ := cmd.Flags().GetStringArray("public-key")
	var whole audit.Report
	for part := range slices.Chunk(checkpoints, audit.MaxCheckpoints) {
		var r audit.Report
		if _, err := c.call(cmd.Context(), http.MethodPost, "/v1/audit/verify", nil, map[string]any{"heads": part, "public_keys": keys}, &r); err != nil {
			return err
		}
		r.Checkpoints, r.Signed = r.Checkpoints+whole.Checkpoints, r.Signed+whole.Signed
		for _, p := range whole.Problems { // The report about each part of the chain repeats the problems of the whole chain, so those are removed here.
			if !slices.Contains(r.Problems, p) {
				r.Problems = append(r.Problems, p)
			}
		}
		r.Intact = r.Intact && len(r.Problems) == 0
		whole = r
	}
	b, err := json.Marshal(whole)
	if err != nil {
		return err
	}
	return printChain(cmd, b, whole)
}

// printChain prints the report of a verification, and returns an error if the chain was altered.
func printChain(cmd *cobra.Command, b []byte, r audit.Report) error {
	var err error
	if asJSON(cmd) {
		err = printJSON(cmd, b)
	} else {
		line := fmt.Sprintf("%d events, last hash %s", r.Events, shown(r.LastHash))
		if r.Checkpoints > 0 {
			line += fmt.Sprintf("; compared with %d checkpoints, %d of them signed", r.Checkpoints, r.Signed)
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), line)
	}
	if err == nil && !r.Intact {
		return errors.New("the audit chain was altered: " + strings.Join(r.Problems, "; "))
	}
	return err
}

// readCheckpoints reads checkpoints from a file of JSON values. A value is a checkpoint, a log
// line that holds one, or the body of a webhook delivery.
func readCheckpoints(cmd *cobra.Command, file string) ([]audit.Checkpoint, error) {
	in := cmd.InOrStdin()
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	var checkpoints []audit.Checkpoint
	for d := json.NewDecoder(in); ; {
		var v struct {
			audit.Checkpoint
			Logged *audit.Checkpoint `json:"head"`
			Posted *audit.Checkpoint `json:"data"`
		}
		err := d.Decode(&v)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("reading checkpoint %d of %s: %w", len(checkpoints)+1, shown(file), err)
		}
		h := v.Checkpoint
		switch {
		case v.Logged != nil:
			h = *v.Logged
		case v.Posted != nil:
			h = *v.Posted
		}
		if h.Store == "" || h.At.IsZero() {
			return nil, fmt.Errorf("value %d of %s is not a checkpoint: it must be output of audit --head --json, a log line that holds one, or the body of a webhook delivery", len(checkpoints)+1, shown(file))
		}
		checkpoints = append(checkpoints, h)
	}
	if len(checkpoints) == 0 {
		return nil, fmt.Errorf("%s holds no checkpoints", shown(file))
	}
	return checkpoints, nil
}
