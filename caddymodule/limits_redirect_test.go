package caddymodule

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/redis/rueidis"

	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/caddymodule/sites"
	"github.com/keygate-dev/keygate/internal/testserver"
	"github.com/keygate-dev/keygate/plugin/gateway"
)

// redisDo runs a command at a Redis.
func redisDo(t *testing.T, url string, words ...string) string {
	t.Helper()
	option, err := rueidis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	option.DisableCache, option.ClientName = true, "test"
	c, err := rueidis.NewClient(option)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := c.Do(ctx, c.B().Arbitrary(words...).Build()).ToAny()
	if err != nil {
		t.Fatalf("%s: %v", words, err)
	}
	return fmt.Sprint(out)
}

// The password of Redis, its user and its address change in reloads: what was spent stays, and the requests that run hold
// their slots; where the new address is none, or the reload fails later, nothing has changed.
func TestLimitsRedisRedirect(t *testing.T) {
	mode := config.ModeExact
	server := testserver.NewRedis(t, "--user", "admin", "on", "nopass", "~*", "&*", "+@all", "--user", "default", "on", ">rose-1", "~*", "&*", "+@all")
	proxy := testserver.NewProxy(t, server.Addr())
	admin := "redis://admin:x@" + server.Addr()
	at := func(user, addr string) *config.LimitsConfig {
		return &config.LimitsConfig{Type: config.LimitsRedis, Mode: mode, Address: "redis://" + user + "@" + addr + "/0", Timeout: caddy.Duration(10 * time.Second)}
	}
	g := newLimitsRig(t, at(":rose-1", server.Addr()), &config.PlanConfig{Name: "many", Limits: []string{"rate 20/d"}}, &config.PlanConfig{Name: "slots", Limits: []string{"concurrency 1"}})
	comes(t, "Redis is reached", func() bool { return !current(t).engine.Limits().Unreachable() })
	running := g.begin("slots")
	left := int64(20)
	goesOn := func(step string) {
		t.Helper()
		left--
		g.wantLeft("many", left)
		if d := g.check("slots"); d.Reason != gateway.ConcurrencyExceeded {
			t.Errorf("%s: a second request at a time: %s", step, d.Reason)
		}
		if s := sites.Status(context.Background(), current(t)); s.SharedLimits == nil || !s.SharedLimits.OK || s.SharedLimits.InOutage != 0 {
			t.Errorf("%s: status %+v", step, s.SharedLimits)
		}
	}
	goesOn("at first")
	redisDo(t, admin, "ACL", "SETUSER", "default", "resetpass", ">rose-2")
	goesOn("the password is another, and not known yet")

	wrong := func(limits *config.LimitsConfig, extra caddy.ModuleMap, words ...string) {
		t.Helper()
		before := current(t)
		was := g.app.Limits
		g.app.Limits = limits
		err := load(t, g.app, extra)
		g.app.Limits = was
		wantError(t, err, words...)
		if err != nil && strings.Contains(err.Error(), "rose") {
			t.Errorf("a password stands in %q", err)
		}
		if current(t) != before {
			t.Fatal("another configuration runs")
		}
		goesOn("after " + words[0])
	}
	wrong(at(":rose-3", server.Addr()), nil, "Redis returned an error: WRONGPASS", "nothing was changed")
	nobody := testserver.NewProxy(t, "127.0.0.1:1")
	nobody.Refuse()
	wrong(at(":rose-2", nobody.Addr()), nil, "the Redis that was in use until now answers")
	g.app.Limits = at(":rose-2", server.Addr())
	g.load()
	goesOn("with the new password")

	redisDo(t, admin, "ACL", "SETUSER", "gate", "on", ">rose-4", "~keygate:*", "+@all")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for range 3 { // apps start in random order
		wrong(at("gate:rose-4", proxy.Addr()), caddy.ModuleMap{"http": fmt.Appendf(nil, `{"servers":{"s":{"listen":[%q]}}}`, taken.Addr())}, "address already in use")
	}
	comes(t, "nothing is connected by the address that was not taken", func() bool { return proxy.Connections() == 0 })
	mode = config.ModeLeased
	g.app.Limits = at("gate:rose-4", proxy.Addr())
	g.load()
	goesOn("as another user at another address")
	comes(t, "the former user's connections end", func() bool { return !strings.Contains(redisDo(t, admin, "CLIENT", "LIST"), "user=default") })
	goesOn("after those")
	running.Done()
	comes(t, "the slot is free", func() bool { d := g.check("slots"); return d.Allowed() })

	// Neither answers: the next one is taken, as at a start, and used when it does.
	server.Kill()
	comes(t, "it is noticed", func() bool { g.check("open"); return current(t).engine.Limits().Unreachable() })
	g.app.Limits = at(":rose-1", server.Addr())
	g.load()
	server.Start()
	comes(t, "it is reached", func() bool { return !current(t).engine.Limits().Unreachable() })
	if n := proxy.Connections(); n != 0 {
		t.Errorf("%d connections by the former address", n)
	}
}

// A reload that begins with shared limits is refused where the password is wrong; a start is not, and says so.
func TestLimitsRedisWrongPassword(t *testing.T) {
	server := testserver.NewRedis(t, "--requirepass", "rose-1")
	wrong := &config.LimitsConfig{Type: config.LimitsRedis, Address: "redis://:rose-2@" + server.Addr()}
	g := newLimitsRig(t, nil)
	g.wantLeft("local", 4)
	g.app.Limits = wrong
	err := load(t, g.app, nil)
	wantError(t, err, "limits redis", "WRONGPASS", "nothing was changed")
	g.app.Limits = nil
	g.wantLeft("local", 3)
	if current(t).engine.Limits() != nil {
		t.Error("it is used")
	}
	stop(t)
	g = newLimitsRig(t, wrong)
	s := sites.Status(context.Background(), current(t))
	if !s.Degraded || s.SharedLimits == nil || !slices.ContainsFunc(s.Problems, func(p string) bool { return strings.Contains(p, "WRONGPASS") }) {
		t.Errorf("status %+v %+v", s, s.SharedLimits)
	}
	g.app.Limits = &config.LimitsConfig{Type: config.LimitsRedis, Address: "redis://:rose-1@" + server.Addr(), Timeout: caddy.Duration(10 * time.Second)}
	g.load()
	comes(t, "it is mended", func() bool { return sites.Status(context.Background(), current(t)).SharedLimits.OK })
}
