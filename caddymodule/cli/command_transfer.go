package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/importer"
	"github.com/keygate-dev/keygate/plugin/transfer"
)

const (
	// importBytes is the maximum size of the rows of one call; the API reads up to 1 MiB.
	importBytes = 900 << 10
	// importTries is how often a call without a response is made. Repeating an import is safe.
	importTries = 6
)

func importCommand() *cobra.Command {
	cmd := action(&cobra.Command{
		Use: "import [FILE|-]", Short: "Imports keys that were issued elsewhere, plain or as hashes",
		Long: `
Reads keys from a file or standard input, as CSV with a header line or as JSON lines. Each
row has a tenant and a key, or a tenant, a hash and its algorithm: sha256, sha512 or hmac-sha256
in hexadecimal or base64, or bcrypt, with the key's first characters as prefix. Further columns: name, description,
prefix, last_four, environment, scopes, allowed_ips, rate, quota, concurrency, concurrency_per, credits_limit, created_at,
expires_at, disabled, revoked, revoked_at, metadata. Several scopes or addresses are separated by spaces.

A hash does not show whether the gateway accepts its key. So a row with a hash needs a prefix that
matches a prefix or accept line of the configuration, or the configuration needs an accept line. With
--allow-unknown-shape such rows are imported anyway: their keys are rejected until the configuration accepts their shape.

A key that its tenant already has stays unchanged. So an interrupted import can be run again and
continues. Every rejected row is reported on standard error with its line.
Exit status: 0 if no row was rejected, else 1.`,
		Example: "  caddy keygate key import keys.csv --create-tenants\n  zcat keys.jsonl.gz | caddy keygate key import - --format jsonl",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return exit(cmd, usagef("%s takes one file", cmd.CommandPath()))
			}
			return nil
		},
	}, importKeys)
	cmd.Flags().String("format", "", "csv or jsonl (default: by the file's extension; csv for standard input)")
	cmd.Flags().Bool("create-tenants", false, "Create missing tenants, with the default plan")
	cmd.Flags().Bool("allow-unknown-shape", false, "Import hashes even if the gateway may not accept the shape of their keys")
	cmd.Flags().String("pepper-file", "", "File with the pepper of hmac-sha256 hashes; only its id is sent, and the gateway must have it as import_pepper")
	return cmd
}

// importRun is one run of the command import.
type importRun struct {
	cmd    *cobra.Command
	client *client
	create bool
	// unknown is the value of --allow-unknown-shape.
	unknown bool
	pepper  string // pepper is the id of the pepper that rows with an HMAC use.

	rows  []json.RawMessage
	lines []int
	size  int
	done  importSummary
	bar   *progress
}

// importSummary is the output with --json.
type importSummary struct {
	Rows           int               `json:"rows"`
	Created        int               `json:"created"`
	Unchanged      int               `json:"unchanged"`
	Refused        int               `json:"refused"`
	TenantsCreated int               `json:"tenants_created"`
	AcceptedShapes []string          `json:"accepted_shapes"`
	Refusals       []importRejection `json:"refusals"`
}

type importRejection struct {
	Line   int    `json:"line"`
	Reason string `json:"reason"`
}

func importKeys(cmd *cobra.Command, args []string) error {
	name := "-"
	if len(args) == 1 {
		name = args[0]
	}
	format, err := formatOf(cmd, name)
	if err != nil {
		return err
	}
	run := &importRun{cmd: cmd, done: importSummary{Refusals: []importRejection{}}}
	run.create, _ = cmd.Flags().GetBool("create-tenants")
	run.unknown, _ = cmd.Flags().GetBool("allow-unknown-shape")
	if file, _ := cmd.Flags().GetString("pepper-file"); file != "" {
		if file == "-" {
			return usagef("--pepper-file needs a file: standard input is for the keys")
		}
		pepper, err := readSecret(cmd, file)
		if err != nil {
			return fmt.Errorf("reading the pepper: %w", err)
		}
		run.pepper = apikey.PepperID(pepper)
	}
	if run.client, err = clientOf(cmd); err != nil {
		return err
	}
	in := cmd.InOrStdin()
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	run.bar = newProgress(cmd.ErrOrStderr(), in)
	r, err := transfer.NewReader(run.bar.count(in), format)
	if err != nil {
		return fmt.Errorf("reading the keys: %w", err)
	}
	err = run.all(cmd.Context(), r)
	run.bar.clear()
	if err != nil {
		return fmt.Errorf("%w; %d rows are done. Run the same import again to continue: rows that are done stay unchanged", err, run.done.Rows)
	}
	return run.report()
}

// formatOf returns the format that --format sets, else the one of the file's extension, else CSV.
func formatOf(cmd *cobra.Command, name string) (transfer.Format, error) {
	format, _ := cmd.Flags().GetString("format")
	if format == "" {
		format = string(transfer.CSV)
		switch strings.ToLower(filepath.Ext(name)) {
		case ".jsonl", ".ndjson", ".json":
			format = string(transfer.JSONL)
		}
	}
	if f := transfer.Format(format); f == transfer.CSV || f == transfer.JSONL {
		return f, nil
	}
	return "", usagef("--format must be csv or jsonl")
}

// all reads all rows of the file and sends them to the API in batches.
func (run *importRun) all(ctx context.Context, r *transfer.Reader) error {
	for {
		row, err := r.Next()
		var fault *transfer.RowError
		switch {
		case errors.Is(err, io.EOF):
			return run.send(ctx)
		case errors.As(err, &fault):
			run.done.Rows++
			run.reject(fault.Line, fault.Text)
			continue
		case err != nil:
			return fmt.Errorf("reading the keys: %w", err)
		}
		if run.pepper != "" {
			row.JSON = withPepper(row.JSON, run.pepper)
		}
		if len(run.rows) == importer.MaxRows || run.size+len(row.JSON) > importBytes {
			if err := run.send(ctx); err != nil {
				return err
			}
		}
		run.rows, run.lines, run.size = append(run.rows, row.JSON), append(run.lines, row.Line), run.size+len(row.JSON)+1
	}
}

// withPepper adds the pepper's id to a row with an HMAC, unless the row has one.
func withPepper(row json.RawMessage, id string) json.RawMessage {
	var fields map[string]json.RawMessage
	if json.Unmarshal(row, &fields) != nil || string(fields["algorithm"]) != `"hmac-sha256"` || fields["pepper"] != nil {
		return row
	}
	fields["pepper"] = json.RawMessage(strconv.Quote(id))
	b, err := json.Marshal(fields)
	if err != nil {
		return row
	}
	return b
}

// send sends the collected rows to the API. If a call gets no response, send repeats it. Rows that the first call stored then
// count as unchanged.
func (run *importRun) send(ctx context.Context) error {
	if len(run.rows) == 0 {
		return nil
	}
	body := map[string]any{"keys": run.rows, "create_tenants": run.create, "allow_unknown_shape": run.unknown}
	var r importer.Report
	for try := 1; ; try++ {
		_, err := run.client.call(ctx, http.MethodPost, "/v1/import", nil, body, &r)
		if err == nil {
			break
		}
		var rejected *management.Error
		if try == importTries || ctx.Err() != nil || run.done.Rows == 0 || errors.As(err, &rejected) && rejected.Status != http.StatusServiceUnavailable {
			return err
		}
		select {
		case <-time.After(time.Duration(try*try) * 200 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	run.done.Rows += len(run.rows)
	run.done.Created += r.Created
	run.done.Unchanged += r.Unchanged
	run.done.TenantsCreated += r.TenantsCreated
	run.done.AcceptedShapes = r.AcceptedShapes
	for _, d := range r.Data {
		if d.Result == importer.Rejected && d.Row < len(run.lines) {
			run.reject(run.lines[d.Row], (&management.Error{Detail: d.Detail, Fields: d.Errors}).Error())
		}
	}
	run.rows, run.lines, run.size = run.rows[:0], run.lines[:0], 0
	run.bar.show(run.done.Rows)
	return nil
}

func (run *importRun) reject(line int, reason string) {
	run.done.Refused++
	if asJSON(run.cmd) {
		run.done.Refusals = append(run.done.Refusals, importRejection{line, reason})
		return
	}
	run.bar.clear()
	fmt.Fprintf(run.cmd.ErrOrStderr(), "line %d: %s\n", line, shown(reason))
}

func (run *importRun) report() error {
	d := &run.done
	if asJSON(run.cmd) {
		b, err := json.Marshal(d)
		if err == nil {
			err = printJSON(run.cmd, b)
		}
		if err != nil {
			return err
		}
	} else if _, err := fmt.Fprintf(run.cmd.OutOrStdout(), "%d rows: %d imported, %d unchanged, %d rejected; %d tenants created.\n",
		d.Rows, d.Created, d.Unchanged, d.Refused, d.TenantsCreated); err != nil {
		return err
	} else if len(d.AcceptedShapes) > 0 {
		if _, err := fmt.Fprintf(run.cmd.OutOrStdout(), "The gateway accepts keys of %s.\n", shown(strings.Join(d.AcceptedShapes, "; "))); err != nil {
			return err
		}
	}
	if d.Refused > 0 {
		return fmt.Errorf("%d of %d rows were rejected", d.Refused, d.Rows)
	}
	return nil
}

func exportCommand() *cobra.Command {
	cmd := action(&cobra.Command{
		Use: "export", Short: "Writes the records of all keys, without secrets, as CSV or JSON lines",
		Example: "  caddy keygate key export --tenant acme > keys.csv",
	}, exportKeys)
	cmd.Flags().String("tenant", "", "Only keys of this tenant")
	cmd.Flags().String("format", "csv", "csv or jsonl")
	return cmd
}

func exportKeys(cmd *cobra.Command, _ []string) error {
	format, err := formatOf(cmd, "-")
	if err != nil {
		return err
	}
	c, err := clientOf(cmd)
	if err != nil {
		return err
	}
	query := url.Values{"limit": {strconv.Itoa(management.MaxPage)}}
	if tenant, _ := cmd.Flags().GetString("tenant"); tenant != "" {
		// Without this check, a tenant that does not exist would look like a tenant without keys.
		if _, err := c.call(cmd.Context(), http.MethodGet, tenantPath(tenant), nil, nil, nil); err != nil {
			return err
		}
		query.Set("tenant", tenant)
	}
	w, err := transfer.NewWriter(cmd.OutOrStdout(), format)
	if err != nil {
		return err
	}
	for {
		var page management.Page[json.RawMessage]
		if _, err := c.call(cmd.Context(), http.MethodGet, "/v1/keys", query, nil, &page); err != nil {
			return err
		}
		for _, record := range page.Data {
			if err := w.Write(record); err != nil {
				return err
			}
		}
		if page.NextCursor == nil {
			return w.Flush()
		}
		query.Set("cursor", *page.NextCursor)
	}
}

// progress draws the progress of an import if standard error is a terminal.
type progress struct {
	out   io.Writer // nil if standard error is no terminal
	began time.Time
	drawn bool
	size  int64 // size of the input in bytes, 0 if unknown
	read  int64
}

func newProgress(out io.Writer, in io.Reader) *progress {
	p := &progress{began: time.Now()}
	if f, ok := out.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			p.out = out
		}
	}
	if f, ok := in.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			p.size = info.Size()
		}
	}
	return p
}

// count returns a reader that reads from in and adds the number of bytes read to p.
func (p *progress) count(in io.Reader) io.Reader { return &counted{in, p} }

type counted struct {
	io.Reader
	p *progress
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.p.read += int64(n)
	return n, err
}

func (p *progress) show(rows int) {
	if p.out == nil {
		return
	}
	const width = 30
	bar := ""
	if p.size > 0 {
		full := int(min(p.read, p.size) * width / p.size)
		bar = "[" + strings.Repeat("#", full) + strings.Repeat(".", width-full) + "] "
	}
	fmt.Fprintf(p.out, "\r\x1b[K%s%d rows, %.0f/s", bar, rows, float64(rows)/max(time.Since(p.began).Seconds(), 0.001))
	p.drawn = true
}

func (p *progress) clear() {
	if p.drawn {
		fmt.Fprint(p.out, "\r\x1b[K")
		p.drawn = false
	}
}
