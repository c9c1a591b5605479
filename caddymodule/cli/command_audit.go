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
		Use: "audit", Short: "Shows who changed what, newest first, or verifies that nothing was altered",
		Long: `Shows who changed what, newest first.

With --verify it checks the chain of hashes over all events: that none was changed, put in,
or taken out from between. That the chain was cut short, or rewritten as a whole, is noticed
against heads that were kept elsewhere: --head prints the present one, and the gateway logs
one every hour in which the chain moved. --against reads heads from a file, one or many, as
--head --json prints them, as they stand in the log, or as webhooks receive them.`,
		Example: `  caddy keygate audit --tenant acme --limit 20
  caddy keygate audit --head --json >> heads.jsonl
  caddy keygate audit --verify
  caddy keygate audit --verify --against heads.jsonl
  grep '"audit head"' caddy.log | caddy keygate audit --verify --against -`,
	}, runAudit)
	addListFlags(cmd, map[string]string{"key": "Only about this key", "tenant": "Only about this tenant"})
	f := cmd.Flags()
	f.Bool("verify", false, "Check the chain of all events")
	f.Bool("head", false, "Print the head of the chain, to be kept elsewhere")
	f.String("against", "", "With --verify: file of heads that were kept elsewhere; - for standard input")
	f.StringArray("public-key", nil, "With --against: public key, in base64, of a secret before, that heads may be signed with; may be repeated")
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
		return printHead(cmd)
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

// printHead prints the head of the chain. Its JSON is one line, so that heads can be
// collected in a file.
func printHead(cmd *cobra.Command) error {
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
	heads, err := readHeads(cmd, file)
	if err != nil {
		return err
	}
	keys, _ := cmd.Flags().GetStringArray("public-key")
	var whole audit.Report
	for part := range slices.Chunk(heads, audit.MaxCheckpoints) {
		var r audit.Report
		if _, err := c.call(cmd.Context(), http.MethodPost, "/v1/audit/verify", nil, map[string]any{"heads": part, "public_keys": keys}, &r); err != nil {
			return err
		}
		r.Checkpoints, r.Signed = r.Checkpoints+whole.Checkpoints, r.Signed+whole.Signed
		for _, p := range whole.Problems { // the problems of the chain itself are printed each time
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

// printChain prints what verifying found, and fails where it found something.
func printChain(cmd *cobra.Command, b []byte, r audit.Report) error {
	var err error
	if asJSON(cmd) {
		err = printJSON(cmd, b)
	} else {
		line := fmt.Sprintf("%d events, head %s", r.Events, shown(r.LastHash))
		if r.Checkpoints > 0 {
			line += fmt.Sprintf("; compared with %d kept heads, %d of them signed", r.Checkpoints, r.Signed)
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), line)
	}
	if err == nil && !r.Intact {
		return errors.New("the audit chain was altered: " + strings.Join(r.Problems, "; "))
	}
	return err
}

// readHeads reads heads from a file of JSON values: heads, lines of the log that hold one, or the
// bodies of webhooks.
func readHeads(cmd *cobra.Command, file string) ([]audit.Checkpoint, error) {
	in := cmd.InOrStdin()
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	var heads []audit.Checkpoint
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
			return nil, fmt.Errorf("reading head %d of %s: %w", len(heads)+1, shown(file), err)
		}
		h := v.Checkpoint
		switch {
		case v.Logged != nil:
			h = *v.Logged
		case v.Posted != nil:
			h = *v.Posted
		}
		if h.Store == "" || h.At.IsZero() {
			return nil, fmt.Errorf("value %d of %s is no head: it must be as audit --head --json prints it, a line of the log that holds one, or a webhook's body", len(heads)+1, shown(file))
		}
		heads = append(heads, h)
	}
	if len(heads) == 0 {
		return nil, fmt.Errorf("%s holds no heads", shown(file))
	}
	return heads, nil
}
