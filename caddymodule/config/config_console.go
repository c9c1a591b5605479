package config

import (
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"golang.org/x/net/http/httpguts"

	"github.com/keygate-dev/keygate/plugin/console"
	"github.com/keygate-dev/keygate/plugin/management/auth"
)

// ConsoleConfig is the configuration of a `keygate_console` directive.
type ConsoleConfig struct {
	// Keyspace names the keyspace that the console manages. Default: the only keyspace if there is
	// one, else "default".
	Keyspace string `json:"keyspace,omitempty"`
	// Path is the console's path. Requests for other paths go to the next handler. Default: "/",
	// the whole site.
	Path string `json:"path,omitempty"`
	// URL is the console's address in browsers, for portal links. Default: derived from the site's
	// configuration, which can be wrong behind another proxy.
	URL string `json:"url,omitempty"`
	// Title is the product's name in the console. Default: "Keygate".
	Title string `json:"title,omitempty"`
	// Color is the accent color, as rrggbb or #rrggbb. Default: "2f5d50".
	Color string `json:"color,omitempty"`
	// Logo is an image file of at most 64 KiB. Default: none.
	Logo string `json:"logo,omitempty"`
	// IdentityHeader is a header that is trusted to hold the name of the signed-in user. A handler
	// before the console must set or remove it, such as forward_auth with copy_headers. Default:
	// none.
	IdentityHeader string `json:"identity_header,omitempty"`
	// IdentityScopes are the management scopes of users that IdentityHeader names. Default: all
	// scopes.
	IdentityScopes []string `json:"identity_scopes,omitempty"`
}

// UnmarshalCaddyfile sets up c from its directive without a matcher. See parseConsole for the syntax.
func (c *ConsoleConfig) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // This call skips the name of the directive.
	at := *d
	l := make(lines)
	l.note("keyspace", d)
	names, err := args(d, 0, 1, "keygate_console [<matcher>] [<keyspace>] { … }")
	if err != nil {
		return err
	}
	if len(names) == 1 {
		c.Keyspace = names[0]
	}
	opts := options{
		"identity_header": {parse: func(d *caddyfile.Dispenser) error {
			l.note("identity_header", d)
			l.note("identity_scopes", d)
			a, err := args(d, 1, -1, "identity_header <header> [<scope>...]")
			if err != nil {
				return err
			}
			c.IdentityHeader, c.IdentityScopes = a[0], a[1:]
			return nil
		}},
	}
	opts["color"] = option{parse: func(d *caddyfile.Dispenser) error {
		l.note("color", d)
		// A Caddyfile treats an unquoted # as the start of a comment, so the color also works
		// without it.
		return oneArg(d, "color <rrggbb>", &c.Color)
	}}
	for name, to := range map[string]*string{"path": &c.Path, "url": &c.URL, "title": &c.Title, "logo": &c.Logo} {
		opts[name] = option{parse: func(d *caddyfile.Dispenser) error {
			l.note(name, d)
			return oneArg(d, name+" <"+name+">", to)
		}}
	}
	if err := block(d, "keygate_console", opts); err != nil {
		return err
	}
	return l.locate(&at, c.Check())
}

// Check returns an error if the configuration is wrong. It reads no file, such as the logo.
func (c *ConsoleConfig) Check() error {
	if c.Path != "" && (!strings.HasPrefix(c.Path, "/") || path.Clean(c.Path) != c.Path || strings.ContainsAny(c.Path, "*{}?#%")) {
		return Errorf("path", "path: '%s' must be a plain path, such as /console", c.Path)
	}
	if c.URL != "" {
		u, err := url.Parse(c.URL)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			return Errorf("url", "url: '%s' must be a URL without a query, such as https://keys.example.com", c.URL)
		}
	}
	if len(c.Title) > 60 || strings.ContainsFunc(c.Title, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return Errorf("title", "title: must be at most 60 characters, none of them control characters")
	}
	if err := (console.Brand{Color: c.Color}).Check(); err != nil {
		return Errorf("color", "%w", err)
	}
	if c.IdentityHeader != "" && !httpguts.ValidHeaderFieldName(c.IdentityHeader) {
		return Errorf("identity_header", "identity_header: '%s' is not a header name", c.IdentityHeader)
	}
	if c.IdentityHeader == "" && len(c.IdentityScopes) > 0 {
		return Errorf("identity_scopes", "identity_scopes needs identity_header")
	}
	known := auth.TokenScopes()
	for _, s := range c.IdentityScopes {
		if !slices.Contains(known, s) {
			return Errorf("identity_scopes", "identity_header: '%s' is not a scope (available: %s)", s, strings.Join(known, ", "))
		}
	}
	return nil
}
