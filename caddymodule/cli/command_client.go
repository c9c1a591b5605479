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

// tokenEnv holds the management token for --server.
const tokenEnv = "KEYGATE_TOKEN"

// commandTimeout bounds one request of a command.
const commandTimeout = time.Minute

// addClientFlags adds the flags that say which gateway a command talks to, and how.
func addClientFlags(cmd *cobra.Command) {
	f := cmd.PersistentFlags()
	f.String("address", "", "Address of Caddy's admin endpoint (default: as in caddy reload)")
	f.StringP("config", "c", "", "Configuration file that holds the address of the admin endpoint")
	f.StringP("adapter", "a", "", "Config adapter of that file, if it is not JSON")
	f.String("server", "", "URL of a gateway's keygate_api, instead of the admin endpoint; the token is in "+tokenEnv+" or --token-file")
	f.String("token-file", "", "File that holds the management token for --server; - for standard input")
	f.String("keyspace", "", "Keyspace (default: the only one, else default)")
	f.String("actor", "", "Who does it, for the audit (default: the system user)")
	f.Bool("offline", false, "Open the store of --config itself, without a gateway: for a few commands, see caddy keygate --help")
	f.Bool("json", false, "Print the API's JSON")
	f.Duration("start-wait", startWait, "How long to wait for a gateway that is starting; 0 does not wait")
}

// client talks to the management API of one gateway.
type client struct {
	http *http.Client
	// base is what /v1/… is appended to.
	base   string
	header http.Header
	// Keyspace is "" for the gateway's default.
	keyspace string
	// name of the gateway in messages.
	name string
	// pending are the nodes that had not confirmed what the last call changed.
	pending []management.PendingNode
}

// clientOf returns the client that the flags of cmd describe.
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

// actAs sets the actor that the audit records, by default the system user.
func (c *client) actAs(actor string) {
	if actor == "" {
		actor = systemUser()
	}
	c.header.Set(api.ActorHeader, api.EncodeActor(actor))
	c.header.Set(adminapi.ViaHeader, "cli")
}

// useServer makes c talk to a gateway's keygate_api.
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
		return errors.New("the management token holds characters that no token has")
	}
	c.header.Set("Authorization", "Bearer "+token)
	if actor != "" {
		// Only a token with the scope act may say so.
		c.header.Set(api.ActorHeader, api.EncodeActor(actor))
	}
	c.base, c.name = strings.TrimSuffix(u.String(), "/"), u.Host
	c.http.Transport = &startWaiter{http.DefaultTransport, wait}
	// A token must not follow a redirect to somewhere else.
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return nil
}

// useAdminEndpoint makes c talk to Caddy's admin endpoint, as caddycmd.AdminAPIRequest does, which
// returns refusals only as text.
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

// systemUser names who runs the command.
func systemUser() string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	return "cli"
}

// call sends body, nil for none, and reads the answer into into, nil for nothing. It
// returns the answer's JSON. Refusals are *management.Error.
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
			err = failed.Err // without the address, which is said already
		}
		return nil, fmt.Errorf("no gateway answers at %s: %w; is it running, and is --address, --config or --server right?", c.name, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return nil, fmt.Errorf("reading the answer of %s: %w", c.name, err)
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
		return nil, fmt.Errorf("%s does not answer as a gateway does: %w", c.name, err)
	}
	return b, nil
}

// unconfirmed joins err with the failure of the last call, a change, where some node has not
// confirmed it. A gateway that has not confirmed a new key does not accept it yet: this is no failure.
func (c *client) unconfirmed(err error) error {
	return errors.Join(err, pending(management.Receipt{Pending: c.pending, Durable: true}))
}

// problemOf reads why a request was refused.
func problemOf(resp *http.Response, b []byte) error {
	var p struct {
		Detail string                  `json:"detail"`
		Code   string                  `json:"code"`
		Error  string                  `json:"error"` // Caddy's own
		Errors []management.FieldError `json:"errors"`
	}
	_ = json.Unmarshal(b, &p)
	switch {
	case p.Detail != "":
		return &management.Error{Status: resp.StatusCode, Code: p.Code, Detail: p.Detail, Fields: p.Errors}
	case p.Error != "":
		return errors.New("the admin endpoint refused: " + p.Error)
	case resp.StatusCode == http.StatusNotFound:
		return errors.New("there is a server, but no gateway in it: is the keygate app in its configuration?")
	}
	return fmt.Errorf("the gateway answered %s", resp.Status)
}

// maxSecretFile bounds the size of a key or a token that is read, in bytes.
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
		return "", errors.New("it is longer than any key")
	}
	return strings.TrimSpace(string(b)), nil
}
