package cli

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/plugin/inspect"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/auth"
	"github.com/keygate-dev/keygate/plugin/scanner"
)

// completeTimeout is how long a shell waits for the gateway's suggestions.
const completeTimeout = time.Second

// completer returns suggestions for an argument or a flag's value, each with an optional
// description after a tab.
type completer func(cmd *cobra.Command) []string

// values returns a completer for a fixed list of words.
func values(words ...string) completer {
	return func(*cobra.Command) []string { return words }
}

// argumentCompleters maps names of arguments in Use to completers; flagCompleters maps flags to
// completers. Arguments called FILE and the flags in fileFlags are completed as files, all others
// not at all.
var (
	argumentCompleters = map[string]completer{"<slug>": tenantSlugs, "<key id>": keyIDs, "KEY": keyIDs, "<token id>": tokenIDs}

	flagCompleters = map[string]completer{
		"tenant": tenantSlugs, "key": keyIDs, "plan": planNames, "keyspace": keyspaceNames, "env": keyEnvironments,
		"status": values("active", "disabled", "revoked", "expired"), "step": values("hour", "day"), "group-by": values("tenant", "key"),
		"method": values(http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete),
	}
	// fileFlags are the flags whose value is a file.
	fileFlags = []string{"config", "token-file", "key-file", "against", "pepper-file"}
)

// completing adds shell completion to cmd and its subcommands.
func completing(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		completing(sub)
	}
	if len(cmd.Commands()) > 0 {
		return
	}
	_, argument, _ := strings.Cut(cmd.Use, " ")
	complete := argumentCompleters[argument]
	if !strings.Contains(argument, "FILE") {
		cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
			if complete == nil || len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return beginning(complete(cmd), toComplete), cobra.ShellCompDirectiveNoFileComp
		}
	}
	flags := map[string]completer{}
	for name, c := range flagCompleters {
		flags[name] = c
	}
	switch cmd.Parent().Name() + " " + cmd.Name() {
	case "token create":
		flags["scope"] = values(auth.TokenScopes()...)
	case "key create", "key update":
		flags["scope"] = scopeNames
	case "key import", "key export":
		flags["format"] = values("csv", "jsonl")
	case config.AppName + " scanner-rules":
		flags["format"] = values(string(scanner.Gitleaks), string(scanner.TruffleHog), string(scanner.GitHub))
	}
	every := func(f *pflag.Flag) {
		complete := flags[f.Name]
		if complete == nil && slices.Contains(fileFlags, f.Name) || f.Value.Type() == "bool" {
			return
		}
		// RegisterFlagCompletionFunc fails only if the flag is registered already, which can
		// happen for inherited flags.
		_ = cmd.RegisterFlagCompletionFunc(f.Name, func(cmd *cobra.Command, _ []string, toComplete string) ([]string, cobra.ShellCompDirective) {
			if complete == nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return beginning(complete(cmd), toComplete), cobra.ShellCompDirectiveNoFileComp
		})
	}
	cmd.LocalFlags().VisitAll(every)
	cmd.InheritedFlags().VisitAll(every)
}

// beginning returns the entries that begin with toComplete.
func beginning(list []string, toComplete string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return !strings.HasPrefix(s, toComplete) })
}

// described returns s as a suggestion, with name as its description.
func described(s, name string) string {
	if name == "" || name == s {
		return shown(s)
	}
	return shown(s) + "\t" + shown(name)
}

// ask requests a path from the gateway. It leaves into unchanged if the gateway does not answer in
// time, since a shell shows no error during completion.
func ask(cmd *cobra.Command, path string, query url.Values, into any) {
	if offline, _ := cmd.Flags().GetBool("offline"); offline {
		return
	}
	ctx := cmd.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completeTimeout)
	defer cancel()
	_ = cmd.Flags().Set("start-wait", "0s")
	if c, err := clientOf(cmd); err == nil {
		_, _ = c.call(ctx, http.MethodGet, path, query, nil, into)
	}
}

// recordsOf returns suggestions for the newest records of the list at path. If the flag --tenant is set, only keys of that
// tenant are suggested.
func recordsOf[T any](cmd *cobra.Command, path string, show func(T) string) []string {
	query := url.Values{"limit": {strconv.Itoa(management.MaxPage)}}
	if path == "/v1/keys" {
		if t, _ := cmd.Flags().GetString("tenant"); t != "" {
			query.Set("tenant", t)
		}
	}
	var page management.Page[json.RawMessage]
	ask(cmd, path, query, &page)
	var out []string
	for _, raw := range page.Data {
		var r T
		if json.Unmarshal(raw, &r) == nil {
			out = append(out, show(r))
		}
	}
	return out
}

func tenantSlugs(cmd *cobra.Command) []string {
	return recordsOf(cmd, "/v1/tenants", func(t management.TenantRecord) string { return described(t.Slug, t.Name) })
}

func keyIDs(cmd *cobra.Command) []string {
	return recordsOf(cmd, "/v1/keys", func(k management.KeyRecord) string {
		return described(k.ID, k.Tenant+": "+k.Name+", "+string(k.Status))
	})
}

func tokenIDs(cmd *cobra.Command) []string {
	return recordsOf(cmd, "/v1/tokens", func(t auth.TokenRecord) string {
		return described(t.ID, t.Name+", "+string(t.Status))
	})
}

func planNames(cmd *cobra.Command) (out []string) {
	var page management.Page[management.PlanRecord]
	ask(cmd, "/v1/plans", nil, &page)
	for _, p := range page.Data {
		out = append(out, shown(p.Name))
	}
	return out
}

// scopeNames returns the scopes that at least one plan allows.
func scopeNames(cmd *cobra.Command) (out []string) {
	var page management.Page[management.PlanRecord]
	ask(cmd, "/v1/plans", nil, &page)
	for _, p := range page.Data {
		for _, s := range p.AllowedScopes {
			if !slices.Contains(out, shown(s)) {
				out = append(out, shown(s))
			}
		}
	}
	return out
}

func keyspaceNames(cmd *cobra.Command) (out []string) {
	var s inspect.Status
	ask(cmd, "/v1/status", nil, &s)
	for _, name := range s.Keyspaces {
		out = append(out, shown(name))
	}
	return out
}

// keyEnvironments returns the environments of existing keys, since no API response lists the
// configured ones.
func keyEnvironments(cmd *cobra.Command) (out []string) {
	for _, e := range recordsOf(cmd, "/v1/keys", func(k management.KeyRecord) string { return shown(k.Environment) }) {
		if !slices.Contains(out, e) {
			out = append(out, e)
		}
	}
	return out
}
