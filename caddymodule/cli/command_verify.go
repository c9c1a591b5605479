package cli

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keygate-dev/keygate/plugin/inspect"
)

func verifyCommand() *cobra.Command {
	return checkCommand("verify", "Checks a request with a key, as the proxy would, and spends its cost",
		"Checks a request with a key as the proxy would, and spends its cost. The key is read from standard input or a file. Exit status: 0 if the request would pass, else 1.")
}

func explainCommand() *cobra.Command {
	return checkCommand("explain", "Explains why a request with a key passes or not, check by check",
		"Checks a request with a key as the proxy would, and prints the result of each check in order. It spends nothing. The key is read from standard input or a file.")
}

func checkCommand(verb, short, long string) *cobra.Command {
	cmd := action(&cobra.Command{
		Use: verb, Short: short, Long: long,
		Example: "  caddy keygate " + verb + " --method POST --path /v1/deploy --ip 192.0.2.7 < key.txt\n  pass show acme | caddy keygate " + verb + " --key-file -",
	}, func(cmd *cobra.Command, _ []string) error { return runCheck(cmd, verb) })
	cmd.Flags().String("key-file", "-", "File that holds the key; - for standard input")
	cmd.Flags().String("method", "", "Method of the request (default: GET)")
	cmd.Flags().String("path", "", "Path of the request (default: none, so that no path rule applies)")
	cmd.Flags().Int64("cost", 0, "Cost of the request (default: the cost of its path)")
	cmd.Flags().String("ip", "", "Address of the client")
	return cmd
}

func runCheck(cmd *cobra.Command, verb string) error {
	flags := cmd.Flags()
	c, err := clientOf(cmd)
	if err != nil {
		return err
	}
	file, _ := flags.GetString("key-file")
	key, err := readSecret(cmd, file)
	if err != nil {
		return fmt.Errorf("reading the key: %w", err)
	}
	body := map[string]any{"key": key}
	for _, name := range []string{"method", "path", "ip"} {
		if v, _ := flags.GetString(name); v != "" {
			body[name] = v
		}
	}
	if flags.Changed("cost") {
		body["cost"], _ = flags.GetInt64("cost")
	}
	var r inspect.Result
	b, err := c.call(cmd.Context(), http.MethodPost, "/v1/"+verb, nil, body, &r)
	if err != nil {
		return err
	}
	if asJSON(cmd) {
		err = printJSON(cmd, b)
	} else {
		err = printResult(cmd, r)
	}
	if err == nil && verb == "verify" && !r.Allowed {
		return fmt.Errorf("the request would be rejected: %s", r.Reason)
	}
	return err
}

func printResult(cmd *cobra.Command, r inspect.Result) error {
	out := cmd.OutOrStdout()
	verdict := "allowed"
	if !r.Allowed {
		verdict = "rejected: " + r.Reason + " (" + strconv.Itoa(r.Status) + ")"
	}
	pairs := []string{
		"Verdict", verdict, "Message", r.Message, "Path", r.Path, "Tenant", r.Tenant, "Plan", r.Plan, "Key", r.KeyID, "Name", r.KeyName,
		"Environment", r.Environment, "Scopes", strings.Join(r.Scopes, " "),
	}
	for _, name := range slices.Sorted(maps.Keys(r.Headers)) {
		pairs = append(pairs, name, r.Headers[name])
	}
	if err := sheet(out, pairs...); err != nil || len(r.Checks) == 0 {
		return err
	}
	fmt.Fprintln(out)
	t := newTable(out, "CHECK", "RESULT", "WHY")
	for _, c := range r.Checks {
		result := "passed"
		if !c.OK {
			result = "rejected"
		}
		t.row(c.Check, result, c.Detail)
	}
	return t.flush()
}

func statusCommand() *cobra.Command {
	cmd := action(&cobra.Command{Use: "status", Short: "Shows the state of the gateway, and the gateways that share its store",
		Example: "  caddy keygate status\n  caddy keygate status --check --start-wait 0s\n  caddy keygate status --forget gw-3"}, status)
	cmd.Flags().Bool("check", false, "Exit with 1 while the gateway is degraded")
	cmd.Flags().String("forget", "", "Forget a gateway that ended without a clean stop: changes no longer wait for it")
	return cmd
}

func status(cmd *cobra.Command, _ []string) error {
	c, err := clientOf(cmd)
	if err != nil {
		return err
	}
	if node, _ := cmd.Flags().GetString("forget"); node != "" {
		if _, err := c.call(cmd.Context(), http.MethodDelete, "/v1/nodes/"+url.PathEscape(node), nil, nil, nil); err != nil {
			return err
		}
		if !asJSON(cmd) {
			fmt.Fprintf(cmd.OutOrStdout(), "Forgot the gateway %s.\n", shown(node))
		}
		return nil
	}
	var s inspect.Status
	b, err := c.call(cmd.Context(), http.MethodGet, "/v1/status", nil, nil, &s)
	if err != nil {
		return err
	}
	if err := printStatus(cmd, b, &s); err != nil {
		return err
	}
	if check, _ := cmd.Flags().GetBool("check"); check && s.Degraded {
		return errors.New("the gateway is degraded:\n  " + strings.Join(s.Problems, "\n  "))
	}
	return nil
}

func printStatus(cmd *cobra.Command, b []byte, s *inspect.Status) error {
	if asJSON(cmd) {
		return printJSON(cmd, b)
	}
	state := "ok"
	if s.Degraded {
		state = "degraded"
	}
	store := s.Store.Kind + ", " + strconv.FormatInt(s.Store.Secrets, 10) + " secrets"
	if !s.Store.OK {
		store = s.Store.Kind + ", does not answer"
	}
	if err := sheet(cmd.OutOrStdout(), "Gateway", state, "Keygate", s.Version, "Caddy", s.CaddyVersion, "Keyspaces", strings.Join(s.Keyspaces, " "),
		"Store", store, "Limits", s.Limits); err != nil {
		return err
	}
	for _, problem := range s.Problems {
		fmt.Fprintln(cmd.OutOrStdout(), "Problem: "+shown(problem))
	}
	fmt.Fprintln(cmd.OutOrStdout())
	t := newTable(cmd.OutOrStdout(), "NODE", "VERSION", "READY", "CHANGES", "BEHIND", "KEYS CACHED", "CONFIG", "LAST CONTACT")
	for _, n := range s.Nodes {
		t.row(n.Node, cmp.Or(n.Version, "before 0.2.0"), strconv.FormatBool(n.Ready), strconv.FormatInt(n.Seq, 10), strconv.FormatInt(n.Lag, 10),
			strconv.FormatInt(n.KeysCached, 10), n.ConfigHash, moment(n.LastContact))
	}
	return t.flush()
}
