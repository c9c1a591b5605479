package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/keygate-dev/keygate/caddymodule/adminapi"
	"github.com/keygate-dev/keygate/plugin/api"
	"github.com/keygate-dev/keygate/plugin/management"
)

// tokenEnv is the environment variable with the management token for --server.
const tokenEnv = "KEYGATE_TOKEN"

// commandTimeout is the longest time that one request of a command may take.
const commandTimeout = time.Minute

// addClientFlags adds the flags that choose a gateway and how to reach it.
func addClientFlags(cmd *cobra.Command) {
	f := cmd.PersistentFlags()
	f.String("address", "", "Address of Caddy's admin endpoint (default: as in caddy reload)")
	f.StringP("config", "c", "", "Configuration file that holds the address of the admin endpoint")
	f.StringP("adapter", "a", "", "Config adapter of that file, if it is not JSON")
	f.String("server", "", "URL of a gateway's keygate_api, instead of the admin endpoint; the token is in "+tokenEnv+" or --token-file")
	f.String("token-file", "", "File that holds the management token for --server; - for standard input")
	f.String("keyspace", "", "Keyspace (default: the only one, else default)")
	f.String("actor", "", "Actor that the audit records (default: the system user)")
	f.Bool("offline", false, "Open the store of --config directly, without a running gateway; only for some commands, see caddy keygate --help")
	f.Bool("json", false, "Print the API's response as JSON")
	f.Duration("start-wait", startWait, "How long to wait while the gateway is starting; 0 does not wait")
}

// client sends requests to the management API of one gateway.
type client struct {
	http *http.Client
	// base is the URL before /v1/….
	base   string
	header http.Header
	// keyspace is "" for the gateway's default keyspace.
	keyspace string
	// name identifies the gateway in messages.
	name string
	// pending are the nodes that have not confirmed the last call's change.
	pending []management.PendingNode
}

// clientOf returns the client for the flags of cmd.
func clientOf(cmd *cobra.Command) (*client, error) {
	c := &client{http: &http.Client{Timeout: commandTimeout}, header: http.Header{}}
	flags := cmd.Flags()
	get := func(name string) string {
		v, _ := flags.GetString(name)
		return v
	}
	c.keyspace = get("keyspace")
	actor := get("actor")
	if offline, _ := flags.GetBool("offline"); offline {
		return c, c.useStore(cmd, actor)
	}
	wait, _ := flags.GetDuration("start-wait")
	if server := get("server"); server != "" {
		if flags.Changed("address") {
			return nil, usagef("--server and --address exclude each other")
		}
		return c, c.useServer(cmd, server, actor, wait)
	}
	if flags.Changed("token-file") {
		return nil, usagef("--token-file is for --server; the admin endpoint takes no token")
	}
	address, err := caddycmd.DetermineAdminAPIAddress(get("address"), nil, get("config"), get("adapter"))
	if err != nil {
		return nil, fmt.Errorf("finding Caddy's admin endpoint: %w", err)
	}
	c.actAs(actor)
	return c, c.useAdminEndpoint(address, wait)
}

// actAs sets the actor that the audit records. The default is the system user.
func (c *client) actAs(actor string) {
	if actor == "" {
		actor = systemUser()
	}
	c.header.Set(api.ActorHeader, api.EncodeActor(actor))
	c.header.Set(adminapi.ViaHeader, "cli")
}

// useServer makes c call a gateway's keygate_api at the URL server.
func (c *client) useServer(cmd *cobra.Command, server, actor string, wait time.Duration) error {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return usagef("--server must be a URL such as https://keys.example.com")
	}
	token := os.Getenv(tokenEnv)
	if file, _ := cmd.Flags().GetString("token-file"); file != "" {
		if token, err = readSecret(cmd, file); err != nil {
			return fmt.Errorf("reading the management token: %w", err)
		}
	}
	if token == "" {
		return usagef("--server needs a management token in %s or --token-file", tokenEnv)
	}
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return errors.New("the management token holds characters that are invalid in tokens")
	}
	c.header.Set("Authorization", "Bearer "+token)
	if actor != "" {
		// The gateway accepts another actor only from a token with the scope act.
		c.header.Set(api.ActorHeader, api.EncodeActor(actor))
	}
	c.base, c.name = strings.TrimSuffix(u.String(), "/"), u.Host
	c.http.Transport = &startWaiter{http.DefaultTransport, wait}
	// The client follows no redirect, so that it never sends the token to another server.
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return nil
}

// useAdminEndpoint makes c call Caddy's admin endpoint. It does what caddycmd.AdminAPIRequest
// does, which returns error responses only as text.
func (c *client) useAdminEndpoint(address string, wait time.Duration) error {
	to, err := caddy.ParseNetworkAddress(address)
	if err != nil || to.PortRangeSize() > 1 {
		return usagef("%q is not the address of an admin endpoint", address)
	}
	c.name = address
	origin := "http://127.0.0.1"
	dial := to.JoinHostPort(0)
	if to.IsUnixNetwork() {
		// The address may end in the socket's permissions, as in unix//run/caddy.sock|0220.
		dial, _, _ = strings.Cut(dial, "|")
	} else if !to.IsFdNetwork() {
		origin = "http://" + to.JoinHostPort(0)
		c.header.Set("Origin", origin)
	}
	network := to.Network
	c.http.Transport = &startWaiter{&http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, dial)
		},
	}, wait}
	c.base = origin + adminapi.Prefix
	return nil
}

// systemUser returns the name of the user who runs the command, or "cli" if it is unknown.
func systemUser() string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	return "cli"
}

// call sends a request with body as JSON and decodes the response into into; either may be nil. It
// returns the response's JSON. If the API rejects the request, the error is a *management.Error.
func (c *client) call(ctx context.Context, method, path string, query url.Values, body, into any) ([]byte, error) {
	if c.keyspace != "" {
		if query == nil {
			query = url.Values{}
		}
		query.Set("keyspace", c.keyspace)
	}
	if err := c.checkSecrets(path, query); err != nil {
		return nil, err
	}
	to := c.base + path
	if len(query) > 0 {
		to += "?" + query.Encode()
	}
	var sent io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		sent = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, to, sent)
	if err != nil {
		return nil, err
	}
	r.Header = c.header.Clone()
	if sent != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(r)
	if err != nil {
		var failed *url.Error
		if errors.As(err, &failed) {
			err = failed.Err // url.Error repeats the address. The message below names the address already, so only the inner error is used.
		}
		return nil, fmt.Errorf("the gateway at %s does not answer: %w; check that it is running, and that --address, --config or --server is right", c.name, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return nil, fmt.Errorf("reading the response of %s: %w", c.name, err)
	}
	if resp.StatusCode >= 300 {
		return nil, problemOf(resp, b)
	}
	if _, receipt := into.(*management.Receipt); resp.StatusCode == http.StatusAccepted && !receipt {
		var r management.Receipt
		if json.Unmarshal(b, &r) == nil && r.ID != "" {
			return nil, fmt.Errorf("%s is %s on %s: %w", r.ID, r.Status, strings.Join(r.Confirmed, ", "), pending(r))
		}
	}
	c.pending = nil
	if named := resp.Header.Get(api.PendingHeader); named != "" {
		_ = json.Unmarshal([]byte(named), &c.pending)
	}
	if into == nil || len(b) == 0 {
		return b, nil
	}
	if err := json.Unmarshal(b, into); err != nil {
		return nil, fmt.Errorf("%s does not answer like a gateway: %w", c.name, err)
	}
	return b, nil
}

// unconfirmed adds to err that nodes have not confirmed the change of the last call. Commands that
// create keys don't call it: a node that has not confirmed a new key only rejects that key for a
// while.
func (c *client) unconfirmed(err error) error {
	return errors.Join(err, pending(management.Receipt{Pending: c.pending, Durable: true}))
}

// recordCall makes a call whose response is a record, and prints the record. After a PATCH it returns an error if a
// node has not confirmed the change.
type recordCall func(cmd *cobra.Command, method, path string, body map[string]any) error

// callAndPrint is a recordCall for records of type T.
func callAndPrint[T any](cmd *cobra.Command, method, path string, body map[string]any, print func(T) error) error {
	c, err := clientOf(cmd)
	if err != nil {
		return err
	}
	var sent any
	if body != nil {
		sent = body
	}
	var record T
	b, err := c.call(cmd.Context(), method, path, nil, sent, &record)
	if err != nil {
		return err
	}
	if asJSON(cmd) {
		err = printJSON(cmd, b)
	} else {
		err = print(record)
	}
	if method != http.MethodPatch {
		return err
	}
	return c.unconfirmed(err)
}

// problemOf returns the error in an error response.
func problemOf(resp *http.Response, b []byte) error {
	var p struct {
		Detail string                  `json:"detail"`
		Code   string                  `json:"code"`
		Error  string                  `json:"error"` // set by Caddy's own handlers
		Errors []management.FieldError `json:"errors"`
	}
	_ = json.Unmarshal(b, &p)
	switch {
	case p.Detail != "":
		return &management.Error{Status: resp.StatusCode, Code: p.Code, Detail: p.Detail, Fields: p.Errors}
	case p.Error != "":
		return errors.New("the admin endpoint rejected the request: " + p.Error)
	case resp.StatusCode == http.StatusNotFound:
		return errors.New("the server runs without the keygate app: add the global option keygate { … } to its configuration")
	}
	return fmt.Errorf("the gateway answered %s", resp.Status)
}

// maxSecretFile is the maximum size of a file with a key or token, in bytes.
const maxSecretFile = 64 << 10

// readSecret reads a key or token from a file, or from standard input for "-".
func readSecret(cmd *cobra.Command, file string) (string, error) {
	in := cmd.InOrStdin()
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return "", err
		}
		defer f.Close()
		in = f
	} else if f, ok := in.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			fmt.Fprintln(cmd.ErrOrStderr(), "Reading the secret from standard input; end it with a line break and Ctrl-D.")
		}
	}
	b, err := io.ReadAll(io.LimitReader(in, maxSecretFile+1))
	if err != nil {
		return "", err
	}
	if len(b) > maxSecretFile {
		return "", errors.New("the input is longer than any key")
	}
	return strings.TrimSpace(string(b)), nil
}
