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
	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/internal/testserver"
	"github.com/keygate-dev/keygate/plugin/gateway"
)

// redisDo runs a command on a Redis server.
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

// A reload can change the password, the user and the address of Redis. Counts stay, and running
// requests keep their concurrency slots. If the new address is wrong or the reload fails later,
// nothing changes.
func TestLimitsRedisRedirect(t *testing.T) {
	mode := config.ModeExact
	server := testserver.NewRedis(t, "--user", "admin", "on", "nopass", "~*", "&*", "+@all", "--user", "default", "on", ">rose-1", "~*", "&*", "+@all")
	proxy := testserver.NewProxy(t, server.Addr())
	admin := "redis://admin:x@" + server.Addr()
	at := func(user, addr string) *config.LimitsConfig {
		return &config.LimitsConfig{Type: config.LimitsRedis, Mode: mode, Address: "redis://" + user + "@" + addr + "/0", Timeout: caddy.Duration(10 * time.Second)}
	}
	g := newLimitsHarness(t, at(":rose-1", server.Addr()), &config.PlanConfig{Name: "many", Limits: []string{"rate 20/d"}}, &config.PlanConfig{Name: "slots", Limits: []string{"concurrency 1"}})
	testkit.Eventually(t, "Redis is reached", func() bool { return !current(t).engine.Limits().Unreachable() })
	running := g.begin("slots")
	left := int64(20)
	wantUnchanged := func(step string) {
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
	wantUnchanged("at first")
	redisDo(t, admin, "ACL", "SETUSER", "default", "resetpass", ">rose-2")
	wantUnchanged("the password is another, and not known yet")

	wrong := func(limits *config.LimitsConfig, extra caddy.ModuleMap, words ...string) {
		t.Helper()
		before := current(t)
		was := g.app.Limits
		g.app.Limits = limits
		err := load(t, g.app, extra)
		g.app.Limits = was
		wantError(t, err, words...)
		if err != nil && strings.Contains(err.Error(), "rose") {
			t.Errorf("the error shows a password: %q", err)
		}
		if current(t) != before {
			t.Fatal("another configuration runs")
		}
		wantUnchanged("after " + words[0])
	}
	wrong(at(":rose-3", server.Addr()), nil, "Redis returned an error: WRONGPASS", "nothing was changed")
	refusing := testserver.NewProxy(t, "127.0.0.1:1")
	refusing.Refuse()
	wrong(at(":rose-2", refusing.Addr()), nil, "the former Redis answers and stays in use")
	g.app.Limits = at(":rose-2", server.Addr())
	g.load()
	wantUnchanged("with the new password")

	redisDo(t, admin, "ACL", "SETUSER", "gate", "on", ">rose-4", "~keygate:*", "+@all")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for range 3 { // Caddy starts apps in random order, so several reloads cover both orders.
		wrong(at("gate:rose-4", proxy.Addr()), caddy.ModuleMap{"http": fmt.Appendf(nil, `{"servers":{"s":{"listen":[%q]}}}`, taken.Addr())}, "address already in use")
	}
	testkit.Eventually(t, "the rejected address has no connections", func() bool { return proxy.Connections() == 0 })
	mode = config.ModeLeased
	g.app.Limits = at("gate:rose-4", proxy.Addr())
	g.load()
	wantUnchanged("as another user at another address")
	testkit.Eventually(t, "the former user's connections end", func() bool { return !strings.Contains(redisDo(t, admin, "CLIENT", "LIST"), "user=default") })
	wantUnchanged("after those")
	running.Done()
	testkit.Eventually(t, "the slot is free", func() bool { d := g.check("slots"); return d.Allowed() })

	// While neither the old nor the new address answers, a reload accepts the new one, as a start
	// does. The gateway uses it once it answers.
	server.Kill()
	testkit.Eventually(t, "the gateway notices the outage", func() bool { g.check("open"); return current(t).engine.Limits().Unreachable() })
	g.app.Limits = at(":rose-1", server.Addr())
	g.load()
	server.Start()
	testkit.Eventually(t, "the gateway uses Redis again", func() bool { return !current(t).engine.Limits().Unreachable() })
	if n := proxy.Connections(); n != 0 {
		t.Errorf("%d connections to the former address", n)
	}
}

// A reload that turns on shared limits fails if the password of Redis is wrong. A start with a
// wrong password succeeds, and the status reports the problem.
func TestLimitsRedisWrongPassword(t *testing.T) {
	server := testserver.NewRedis(t, "--requirepass", "rose-1")
	wrong := &config.LimitsConfig{Type: config.LimitsRedis, Address: "redis://:rose-2@" + server.Addr()}
	g := newLimitsHarness(t, nil)
	g.wantLeft("local", 4)
	g.app.Limits = wrong
	err := load(t, g.app, nil)
	wantError(t, err, "limits redis", "WRONGPASS", "nothing was changed")
	g.app.Limits = nil
	g.wantLeft("local", 3)
	if current(t).engine.Limits() != nil {
		t.Error("the rejected limits are used")
	}
	stop(t)
	g = newLimitsHarness(t, wrong)
	s := sites.Status(context.Background(), current(t))
	if !s.Degraded || s.SharedLimits == nil || !slices.ContainsFunc(s.Problems, func(p string) bool { return strings.Contains(p, "WRONGPASS") }) {
		t.Errorf("status %+v %+v", s, s.SharedLimits)
	}
	g.app.Limits = &config.LimitsConfig{Type: config.LimitsRedis, Address: "redis://:rose-1@" + server.Addr(), Timeout: caddy.Duration(10 * time.Second)}
	g.load()
	testkit.Eventually(t, "the right password works", func() bool { return sites.Status(context.Background(), current(t)).SharedLimits.OK })
}
