package checkup_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keygate-dev/keygate/caddymodule/checkup"
	"github.com/keygate-dev/keygate/caddymodule/config"
)

// provisionedHTTP returns the HTTP app of a Caddyfile, provisioned but not started.
func provisionedHTTP(t *testing.T, caddyfile string) *caddyhttp.App {
	t.Helper()
	text, err := adapt(caddyfile)
	if err != nil {
		t.Fatal(err)
	}
	return checkup.ConfiguredHTTP(provisioned(t, text))
}

// provisioned provisions a configuration in JSON without starting it. The configuration is kept
// until the test ends.
func provisioned(t *testing.T, config string) caddy.Context {
	t.Helper()
	c := mustConfig(t, []byte(config))
	if c.AppsRaw == nil {
		c.AppsRaw = make(caddy.ModuleMap)
	}
	c.AppsRaw["keygate_test_hold"] = []byte("{}")
	hold, done, ended := make(chan caddy.Context), make(chan struct{}), make(chan error, 1)
	provisionHold = func(ctx caddy.Context) { hold <- ctx; <-done }
	go func() { ended <- caddy.Validate(c) }()
	select {
	case ctx := <-hold:
		t.Cleanup(func() {
			close(done)
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
		return ctx
	case err := <-ended:
		t.Fatal(err)
		return caddy.Context{}
	}
}

// holdApp is an app that blocks the loading of a configuration after all other apps are
// provisioned, so that a test can inspect them.
type holdApp struct{}

// provisionHold is called when a holdApp is provisioned.
var provisionHold func(caddy.Context)

func init() { caddy.RegisterModule(holdApp{}) }

func (holdApp) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "keygate_test_hold", New: func() caddy.Module { return new(holdApp) }}
}

func (*holdApp) Provision(ctx caddy.Context) error {
	for _, name := range []string{"http", config.AppName} {
		if _, err := ctx.AppIfConfigured(name); err != nil && !errors.Is(err, caddy.ErrNotConfigured) {
			return err
		}
	}
	provisionHold(ctx)
	return nil
}

func (*holdApp) Start() error { return nil }
func (*holdApp) Stop() error  { return nil }

const everyRoute = `
{
	admin off
	persist_config off
	auto_https off
	keygate
}
&(common) {
	keygate
	respond /named named
}
http://a.example:8080 {
	forward_auth localhost:1 {
		uri /
		copy_headers X-User
	}
	header X-A b
	intercept {
		@err status 500
		handle_response @err {
			respond intercepted
		}
	}
	handle /api/* {
		keygate
		reverse_proxy localhost:2 {
			handle_response {
				respond replaced
			}
		}
	}
	handle {
		invoke common
	}
	handle_errors {
		respond failed
	}
}
http://b.example:8080 {
	route {
		respond before
		keygate
	}
}
`

func TestRoutedHandlers(t *testing.T) {
	var got []string
	for h := range checkup.RoutedHandlers(provisionedHTTP(t, everyRoute)) {
		line := h.Site() + " " + h.Module()
		if h.InErrorRoute() {
			line += " error"
		}
		if h.InResponseRoute() {
			line += " response"
		}
		got = append(got, fmt.Sprintf("%s %d", line, h.Depth()))
	}
	want := `a.example subroute 1
a.example headers 2
a.example reverse_proxy 2
a.example vars response 3
a.example headers response 3
a.example headers response 3
a.example intercept 2
a.example static_response response 3
a.example subroute 2
a.example keygate 3
a.example reverse_proxy 3
a.example static_response response 4
a.example subroute 2
a.example invoke 3
a.example subroute 4
a.example keygate 5
a.example static_response 5
b.example subroute 1
b.example subroute 2
b.example static_response 3
b.example keygate 3
a.example subroute error 1
a.example subroute error 2
a.example static_response error 3`
	if text := strings.Join(got, "\n"); text != want {
		t.Errorf("got:\n%s\nwant:\n%s", text, want)
	}
}

func TestRouteOrder(t *testing.T) {
	all := make(map[string]*checkup.RoutedHandler)
	for h := range checkup.RoutedHandlers(provisionedHTTP(t, everyRoute)) {
		// Of several handlers with the same name, the test compares the last one; handlers of
		// responses and errors are excluded.
		if name := h.Site() + " " + h.Module(); !h.InErrorRoute() && !h.InResponseRoute() {
			all[fmt.Sprintf("%s %d", name, h.Depth())] = h
		}
	}
	for _, tt := range []struct {
		first, second    string
		precedes, covers bool
	}{
		{"b.example static_response 3", "b.example keygate 3", true, true},
		{"b.example keygate 3", "b.example static_response 3", false, true},
		{"a.example headers 2", "a.example keygate 3", true, true},
		{"a.example keygate 3", "a.example headers 2", false, false},
		// A request enters only one of several handle blocks.
		{"a.example keygate 3", "a.example keygate 5", false, false},
		{"a.example keygate 5", "a.example static_response 5", true, true},
		{"a.example headers 2", "b.example keygate 3", false, false},
	} {
		a, b := all[tt.first], all[tt.second]
		if a == nil || b == nil {
			t.Fatalf("no handler %q or %q", tt.first, tt.second)
		}
		if got := a.Precedes(b); got != tt.precedes {
			t.Errorf("%s precedes %s: %v", tt.first, tt.second, got)
		}
		if got := a.Covers(b); got != tt.covers {
			t.Errorf("%s covers %s: %v", tt.first, tt.second, got)
		}
	}
}

// The walk ends even if named routes invoke each other in a cycle.
func TestRoutedHandlersRecursion(t *testing.T) {
	n := 0
	for range checkup.RoutedHandlers(provisionedHTTP(t, `
{
	admin off
	persist_config off
	auto_https off
}
&(loop) {
	invoke loop
}
http://localhost:8080 {
	invoke loop
}
`)) {
		n++
	}
	if n < 2 {
		t.Errorf("%d handlers", n)
	}
}
