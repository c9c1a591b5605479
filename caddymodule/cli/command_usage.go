package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/usage"
)

func usageCommand() *cobra.Command {
	cmd := action(&cobra.Command{
		Use: "usage", Short: "Shows the usage of keys and tenants, by hour or day",
		Long: "Shows the usage of one key, one tenant or all: requests, rejections by reason, credits, bytes and latency. " +
			"The usage of deleted keys and tenants is kept.",
		Example: "  caddy keygate usage --tenant acme --step day --from 30d\n  caddy keygate usage --group-by tenant --from 2027-01-01 --to 2027-02-01 --step day --csv > january.csv",
	}, showUsage)
	f := cmd.Flags()
	f.String("key", "", "Only this key, by its id")
	f.String("tenant", "", "Only this tenant's keys")
	f.String("group-by", "", "Print a line for each tenant or key: tenant or key")
	f.String("from", "", "Start: a duration before now such as 30d, a time or a date (default: 24h, by day 30d)")
	f.String("to", "", "End (default: now)")
	f.String("step", "", "hour or day (default: hour)")
	f.Bool("csv", false, "Print CSV")
	return cmd
}

func showUsage(cmd *cobra.Command, _ []string) error {
	flags := cmd.Flags()
	get := func(name string) string {
		v, _ := flags.GetString(name)
		return v
	}
	asCSV, _ := flags.GetBool("csv")
	key, tenant, group := get("key"), get("tenant"), get("group-by")
	path := "/v1/usage"
	switch {
	case asCSV && asJSON(cmd):
		return usagef("--csv and --json exclude each other")
	case key != "" && tenant != "", group != "" && key+tenant != "":
		return usagef("--key, --tenant and --group-by exclude each other")
	case key != "":
		path = "/v1/keys/" + url.PathEscape(key) + "/usage"
	case tenant != "":
		path = "/v1/tenants/" + url.PathEscape(tenant) + "/usage"
	}
	query := url.Values{}
	for name, value := range map[string]string{"group_by": group, "step": get("step")} {
		if value != "" {
			query.Set(name, value)
		}
	}
	for _, name := range []string{"from", "to"} {
		at, err := past(name, get(name))
		if err != nil {
			return err
		}
		if at != "" {
			query.Set(name, at)
		}
	}
	c, err := clientOf(cmd)
	if err != nil {
		return err
	}
	if asCSV {
		query.Set("format", "csv")
		b, err := c.call(cmd.Context(), http.MethodGet, path, query, nil, nil)
		if err == nil {
			_, err = cmd.OutOrStdout().Write(b)
		}
		return err
	}
	return printUsage(cmd.Context(), cmd, c, path, query)
}

func printUsage(ctx context.Context, cmd *cobra.Command, c *client, path string, query url.Values) error {
	var r usage.Report
	b, err := c.call(ctx, http.MethodGet, path, query, nil, &r)
	if err != nil {
		return err
	}
	if asJSON(cmd) {
		return printJSON(cmd, b)
	}
	header := []string{"FROM"}
	group := query.Get("group_by")
	if group != "" {
		header = append(header, "TENANT")
	}
	if group == string(usage.PerKey) {
		header = append(header, "KEY")
	}
	out := newTable(cmd.OutOrStdout(), append(header, "REQUESTS", "ALLOWED", "REJECTED", "UPSTREAM ERRORS", "CREDITS", "IN", "OUT", "P50 MS", "P99 MS")...)
	count := func(n int64) string { return strconv.FormatInt(n, 10) }
	ms := func(v *float64) string {
		if v == nil {
			return ""
		}
		return strconv.FormatFloat(*v, 'f', -1, 64)
	}
	for _, l := range r.Data {
		cells := []string{moment(&l.From)}
		if group != "" {
			cells = append(cells, l.Tenant)
		}
		if group == string(usage.PerKey) {
			cells = append(cells, l.Key)
		}
		out.row(append(cells, count(l.Requests), count(l.Allowed), rejectionCounts(l.Rejected), count(l.UpstreamErrors), count(l.Credits),
			count(l.BytesIn), count(l.BytesOut), ms(l.Latency.P50), ms(l.Latency.P99))...)
	}
	if err := out.flush(); err != nil {
		return err
	}
	return printCompleteUntil(cmd.ErrOrStderr(), r.CompleteUntil)
}

func printCompleteUntil(w io.Writer, until *time.Time) error {
	if until == nil {
		return nil
	}
	_, err := fmt.Fprintln(w, "Complete until", moment(until))
	return err
}

// rejectionCounts returns the numbers of rejected requests by reason as text.
func rejectionCounts(refused map[string]int64) string {
	var words []string
	for _, reason := range slices.Sorted(maps.Keys(refused)) {
		words = append(words, reason+" "+strconv.FormatInt(refused[reason], 10))
	}
	return strings.Join(words, ", ")
}

// past parses a time in the past: a duration before now, an RFC 3339 time, or a date. It returns
// it in RFC 3339.
func past(flag, s string) (string, error) {
	if s == "" {
		return "", nil
	}
	if d, err := management.ParseDuration(s); err == nil {
		return time.Now().Add(-d).UTC().Format(time.RFC3339), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC().Format(time.RFC3339), nil
		}
	}
	return "", usagef("--%s must be a duration before now such as 30d or 24h, an RFC 3339 time such as 2027-01-31T12:00:00Z, or a date", flag)
}

func requestsCommand() *cobra.Command {
	cmd := action(&cobra.Command{
		Use: "requests KEY", Short: "Shows a key's last requests, newest first", Args: named("KEY"),
		Long:    "Shows a key's last requests, newest first, if the configuration keeps them. Queries, bodies and keys are never kept.",
		Example: "  caddy keygate requests key_01j… --limit 20",
	}, func(cmd *cobra.Command, args []string) error {
		out := newTable(cmd.OutOrStdout(), "WHEN", "METHOD", "PATH", "STATUS", "REASON", "MS", "FROM")
		isJSON, err := listed(cmd, "/v1/keys/"+url.PathEscape(args[0])+"/requests", nil, func(r usage.RequestRecord) {
			out.row(moment(&r.Time), r.Method, r.Path, strconv.Itoa(r.Status), r.Reason, strconv.FormatFloat(r.Latency, 'f', 1, 64), text(r.Address))
		})
		if err != nil || isJSON {
			return err
		}
		return out.flush()
	})
	addListFlags(cmd, nil)
	return cmd
}
