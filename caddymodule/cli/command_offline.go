package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/keygate-dev/keygate/caddymodule/adminapi"
	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/plugin/api"
	"github.com/keygate-dev/keygate/plugin/cluster"
	"github.com/keygate-dev/keygate/plugin/engine"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/webhooks"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
	"github.com/keygate-dev/keygate/plugin/store/sqlite"
)

// openTimeout is how long a command may take to open the store, including migrations and checks.
const openTimeout = time.Minute

// offlineNode is the node name in receipts of changes that were made without a gateway.
const offlineNode = "store"

// offlineKey is the context key of the command's *offlineRun. Only commands that accept --offline
// have one.
type offlineKey struct{}

// offlineStore is a store that a command opens itself.
type offlineStore interface {
	engine.Store
	adminapi.Backuper
}

// offlineRun holds the store that a command opened, until the command ends.
type offlineRun struct {
	path  string
	store offlineStore
	// engine is nil if the command does not use the management API, such as backup.
	engine *offlineEngine
}

// offlineToo adds --offline to cmd, which must have a RunE.
func offlineToo(cmd *cobra.Command) *cobra.Command {
	act := cmd.RunE
	if cmd.Annotations == nil {
		cmd.Annotations = map[string]string{}
	}
	cmd.Annotations["offline"] = "yes"
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		run := new(offlineRun)
		ctx := cmd.Context()
		if ctx == nil {
			ctx = context.Background()
		}
		cmd.SetContext(context.WithValue(ctx, offlineKey{}, run))
		err := act(cmd, args)
		if failed := run.close(cmd); err == nil {
			err = exit(cmd, failed)
		}
		return err
	}
	return cmd
}

// close closes the store. After a change it prints that a running gateway applies the change soon.
func (run *offlineRun) close(cmd *cobra.Command) error {
	if run.store == nil {
		return nil
	}
	if run.engine != nil && run.engine.changed.Load() {
		fmt.Fprintf(cmd.ErrOrStderr(), "Written to %s. A running gateway with this store applies the change within a second.\n", shown(run.path))
	}
	if err := run.store.Close(); err != nil {
		return fmt.Errorf("closing the store: %w", err)
	}
	return nil
}

// offlineOf returns the run of a command. It returns an error if the command does not accept
// --offline, or if a flag contradicts it.
func offlineOf(cmd *cobra.Command) (*offlineRun, error) {
	run, ok := cmd.Context().Value(offlineKey{}).(*offlineRun)
	if !ok {
		return nil, usagef("%s needs a running gateway; --offline works only for %s", cmd.CommandPath(), offlineNames(cmd.Root()))
	}
	for _, other := range []string{"server", "token-file", "address"} {
		if cmd.Flags().Changed(other) {
			return nil, usagef("--offline and --%s exclude each other", other)
		}
	}
	return run, nil
}

// offlineNames returns the names of the commands that accept --offline.
func offlineNames(root *cobra.Command) string {
	var names string
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Annotations["offline"] != "" {
			if names != "" {
				names += ", "
			}
			names += strings.TrimPrefix(cmd.CommandPath(), root.Name()+" "+config.AppName+" ")
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(root)
	return names
}

// configOf compiles the keygate app's configuration in the file that --config names.
func configOf(cmd *cobra.Command) (*config.Compiled, error) {
	file, _ := cmd.Flags().GetString("config")
	adapter, _ := cmd.Flags().GetString("adapter")
	if file == "" {
		return nil, usagef("--config is required: the configuration that names the store")
	}
	text, _, _, err := caddycmd.LoadConfig(file, adapter)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	var stated struct {
		Apps map[string]json.RawMessage `json:"apps"`
	}
	if err := json.Unmarshal(text, &stated); err != nil {
		return nil, fmt.Errorf("reading the configuration %s: %w; if it is not JSON, state --adapter", file, err)
	}
	raw, ok := stated.Apps[config.AppName]
	if !ok {
		return nil, fmt.Errorf("%s has no keygate app: add the global option keygate { … }", file)
	}
	c := new(config.Config)
	if err := caddy.StrictUnmarshalJSON(raw, c); err != nil {
		return nil, fmt.Errorf("reading the keygate app of %s: %w", file, err)
	}
	out, err := c.Build(caddy.NewReplacer())
	if err != nil {
		return nil, fmt.Errorf("the keygate app of %s: %w", file, err)
	}
	return out, nil
}

// open opens the store of the configuration. The store must exist: otherwise, in a wrong working
// directory, the command would create an empty one.
func (run *offlineRun) open(cmd *cobra.Command) (*config.Compiled, error) {
	c, err := configOf(cmd)
	if err != nil {
		return nil, err
	}
	path, log := c.Path, commandLog(cmd)
	if target := c.Target(); target.Shared() {
		ctx, cancel := context.WithTimeout(cmd.Context(), openTimeout)
		defer cancel()
		s, err := engine.OpenPrimary(ctx, target, log)
		if err != nil {
			return nil, err
		}
		run.path, run.store = path, s
		return c, nil
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no store exists at %s: check the configuration, and run the command in the gateway's working directory", path)
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), openTimeout)
	defer cancel()
	s, err := sqlite.OpenExisting(ctx, path, log)
	if err != nil {
		return nil, fmt.Errorf("opening the store %s: %w", path, err)
	}
	run.path, run.store = path, s
	return c, nil
}

// commandLog returns a logger that writes warnings and errors to standard error.
func commandLog(cmd *cobra.Command) *slog.Logger {
	return slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// useStore makes c answer its calls in this process, from the store of the configuration. The
// store is closed when the command ends.
func (c *client) useStore(cmd *cobra.Command, actor string) error {
	run, err := offlineOf(cmd)
	if err != nil {
		return err
	}
	compiled, err := run.open(cmd)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), openTimeout)
	defer cancel()
	hasher := compiled.View.Hasher
	if err := engine.CheckPeppers(ctx, run.store, hasher); err != nil {
		return err
	}
	if err := run.store.SavePeppers(ctx, hasher.Checks()); err != nil {
		return fmt.Errorf("storing the check values of the peppers: %w", err)
	}
	run.engine = new(offlineEngine)
	log := commandLog(cmd)
	m := management.New(management.Config{
		Store: run.store, Engine: run.engine, View: func() *gateway.View { return compiled.View },
		Logger: log, Signer: compiled.CheckpointSigner,
	})
	c.http.Transport = inProcess{api.New(m, api.Options{Webhooks: webhooks.New(m, compiled.WebhookSettings), Authenticate: adminapi.Access, Logger: log, ShowCauses: true})}
	c.base, c.name = "http://offline", run.path
	c.actAs(actor)
	return nil
}

// inProcess is an http.RoundTripper that calls a handler in this process.
type inProcess struct{ handler http.Handler }

func (p inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	// A RoundTripper must not change the request, and a handler expects a body that is not nil.
	served := r.Clone(r.Context())
	if served.Body == nil {
		served.Body = http.NoBody
	}
	defer served.Body.Close()
	w := &recorder{header: http.Header{}}
	p.handler.ServeHTTP(w, served)
	w.WriteHeader(http.StatusOK)
	return &http.Response{
		Status: fmt.Sprintf("%d %s", w.status, http.StatusText(w.status)), StatusCode: w.status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: w.header,
		Body: io.NopCloser(&w.body), ContentLength: int64(w.body.Len()), Request: r,
	}, nil
}

// recorder records the response of a handler.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *recorder) Header() http.Header { return w.header }

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
	}
}

func (w *recorder) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(b)
}

// offlineEngine replaces the engine without a running gateway. It only records whether there was a
// change. A gateway that does run reads the change from the store.
type offlineEngine struct{ changed atomic.Bool }

var errOffline = fmt.Errorf("the operation needs a running gateway: %w", gateway.ErrStore)

func (e *offlineEngine) Apply(context.Context, []gateway.Change) error {
	e.changed.Store(true)
	return nil
}

// UnwrittenCredits returns false, because a running gateway may have spent credits.
func (*offlineEngine) UnwrittenCredits(string, string) (int64, bool) { return 0, false }

// WithCredits returns an error: a running gateway may have leased credits, which can't be returned
// without it.
func (*offlineEngine) WithCredits(context.Context, string, string, func() error) error {
	return errOffline
}

// Confirm returns offlineNode as the only node that confirmed.
func (*offlineEngine) Confirm(context.Context, string, int64, time.Duration) cluster.Confirmation {
	return cluster.Confirmation{Confirmed: []string{offlineNode}}
}

// TokenChanges returns 0, because no token is checked offline.
func (*offlineEngine) TokenChanges() uint64 { return 0 }

func (*offlineEngine) Limits(context.Context, *gateway.View, *gateway.Tenant, *gateway.Key, time.Time) ([]ratelimit.Standing, error) {
	return nil, errOffline
}

func (*offlineEngine) ResetLimits(context.Context, *gateway.View, *gateway.Tenant, *gateway.Key, time.Time, ...string) error {
	return errOffline
}

var _ management.Engine = (*offlineEngine)(nil)
