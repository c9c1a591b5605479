package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
)

const reloadPlans = `
		failures 5/h
		plan free
		plan slow {
			rate 60/h
		}
		plan month {
			quota 10/month
		}
		plan paid {
			credits
		}
`

// Reloads under load fail no request, and keep the state of limits, credits and failures.
func TestReloadUnderLoad(t *testing.T) {
	t.Parallel()
	s := startPlain(t, caddyfile(reloadPlans, "keygate"))
	var callers []*caller
	add := func(slug string, fields record, want int) *caller {
		s.tenant(t, slug, fields)
		c := &caller{name: slug, key: s.key(t, slug, nil).full, want: want}
		callers = append(callers, c)
		return c
	}
	for i := range 12 {
		add(fmt.Sprintf("free-%d", i), nil, http.StatusOK)
	}
	slow := add("slow", record{"plan": "slow"}, http.StatusTooManyRequests)
	slow.also = http.StatusOK
	month := add("month", record{"plan": "month"}, http.StatusTooManyRequests)
	paid := add("paid", record{"plan": "paid", "credits": 7}, http.StatusPaymentRequired)
	keyLimit := add("own", nil, http.StatusTooManyRequests)
	s.tenant(t, "revoked", nil)
	revoked := s.key(t, "revoked", nil)
	s.call(t, "GET", "/", revoked.full).passed()
	s.post(t, revoked, "revoke", nil)
	callers = append(callers, &caller{name: "revoked", key: revoked.full, want: http.StatusUnauthorized})

	own := s.key(t, "own", record{"quota": "3/day", "name": "limited"})
	keyLimit.key = own.full
	spent := time.Now()
	for _, spend := range []struct {
		key string
		n   int
	}{{slow.key, 60}, {month.key, 10}, {paid.key, 7}, {own.full, 3}} {
		for range spend.n {
			s.call(t, "GET", "/", spend.key).passed()
		}
	}
	// The failed attempts that this address may make are used up too.
	for range 5 {
		s.call(t, "GET", "/", s.unknown()).rejected(http.StatusUnauthorized)
	}
	callers = append(callers, &caller{name: "unknown", key: s.unknown(), want: http.StatusTooManyRequests})

	tr := s.traffic(6, time.Millisecond, callers...)
	const reloads = 20
	for i := range reloads {
		// Every second reload changes the configuration. Every reload builds all handlers again.
		s.reload(t, caddyfile(reloadPlans, "keygate\n\theader X-Version "+strconv.Itoa(i/2)))
		before := tr.sent.Load()
		testkit.Eventually(t, "requests between reloads", func() bool { return tr.sent.Load() > before+50 })
	}
	sent := tr.stop(t)
	t.Logf("%d requests over %d reloads", sent, reloads)
	for _, c := range callers {
		if c.got.Load() == 0 {
			t.Errorf("%s: no request at all", c.name)
		}
	}
	// The bucket of 60/h regains a token each minute.
	if back := int64(time.Since(spent)/time.Minute) + 1; slow.others.Load() > back {
		t.Errorf("a spent bucket of 60/h let %d pass over %d reloads", slow.others.Load(), reloads)
	}
	if n := s.balance(t, "paid"); n != 0 {
		t.Errorf("the balance is %d", n)
	}
}

// The number of goroutines and the heap do not grow with the number of reloads.
func TestReloadGrowth(t *testing.T) {
	t.Parallel()
	s := startPlain(t, caddyfile(reloadPlans, "keygate"))
	var callers []*caller
	for i := range 20 {
		slug := fmt.Sprintf("free-%d", i)
		s.tenant(t, slug, nil)
		callers = append(callers, &caller{name: slug, key: s.key(t, slug, nil).full, want: http.StatusOK})
	}
	measure := func() (goroutines, heap int64) {
		// Two kinds of goroutines end first: those of the old servers, and those of connections that Caddy's former transports keep
		// open to the upstream for two minutes.
		s.upstream.server.CloseClientConnections()
		for range 3 {
			time.Sleep(100 * time.Millisecond)
			s.pprof(t, "/debug/pprof/heap?gc=1&debug=1")
		}
		return first(t, s.pprof(t, "/debug/pprof/goroutine?debug=1"), `goroutine profile: total (\d+)`),
			first(t, s.pprof(t, "/debug/pprof/heap?gc=1&debug=1"), `# HeapAlloc = (\d+)`)
	}
	round := func(n int) (goroutines, heap int64) {
		for i := range n {
			tr := s.traffic(2, 0, callers...)
			s.reload(t, caddyfile(reloadPlans, "keygate\n\theader X-Version "+strconv.Itoa(i)))
			tr.stop(t)
		}
		return measure()
	}
	g1, h1 := round(10)
	g2, h2 := round(30)
	t.Logf("after 10 reloads: %d goroutines, heap %d KiB; after 40: %d, %d KiB", g1, h1>>10, g2, h2>>10)
	if g2 > g1+5 {
		t.Errorf("%d goroutines after 10 reloads, %d after 40", g1, g2)
	}
	// A former configuration that stayed in memory, with its handlers and the states of keys,
	// would need far more.
	if h2 > h1+30*32<<10 {
		t.Errorf("%d KiB of heap after 10 reloads, %d KiB after 40", h1>>10, h2>>10)
	}
}

func (g *gateway) pprof(t testing.TB, path string) string {
	t.Helper()
	r, err := http.NewRequest("GET", "http://"+g.adminAddr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Close = true
	resp, err := g.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	return g.read(t, resp, "").want(http.StatusOK).body
}

// first returns the number in the first match of a pattern.
func first(t testing.TB, text, pattern string) int64 {
	t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("no %s in %.200s", pattern, text)
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A changed plan applies to keys in use, and their spending carries over.
func TestReloadPlans(t *testing.T) {
	t.Parallel()
	plans := func(rate, quota, more string) string {
		return caddyfile("\t\tplan free {\n\t\t\trate "+rate+"\n\t\t\tquota "+quota+"\n\t\t}\n"+more, "keygate")
	}
	gone := "\t\tplan gone\n\t\tdefault_plan free\n"
	s := startPlain(t, plans("60/h", "100/month", gone))
	s.tenant(t, "acme", nil)
	k := s.key(t, "acme", nil)
	for range 40 {
		s.call(t, "GET", "/", k.full).passed()
	}
	left := func(want int64) {
		t.Helper()
		a := s.call(t, "GET", "/", k.full).passed()
		// The bucket may regain a token while the requests run.
		if got := a.number("X-RateLimit-Remaining"); got < want || got > want+1 {
			t.Errorf("%d left, want %d", got, want)
		}
	}
	left(19) // 60 tokens minus 41 requests.
	s.reload(t, plans("100/h", "100/month", gone))
	left(58) // 100 tokens minus 42 requests, by rate and quota.
	s.reload(t, plans("30/h", "100/month", gone))
	a := s.call(t, "GET", "/", k.full).rejected(http.StatusTooManyRequests)
	if a.number("X-RateLimit-Limit") != 30 || a.problem("rate_limited") == nil {
		t.Errorf("a plan that shrank: %v", a.header)
	}
	s.reload(t, plans("1000/h", "45/month", gone))
	left(2)
	s.reload(t, plans("1000/h", "42/month", gone))
	s.call(t, "GET", "/", k.full).rejected(http.StatusTooManyRequests).problem("quota_exceeded")
	s.reload(t, plans("1000/h", "50/month", gone))
	left(6) // 43 requests have passed.

	// A reload that removes a plan with tenants is rejected.
	for i := range 3 {
		s.tenant(t, fmt.Sprintf("left-%d", i), record{"plan": "gone"})
	}
	last := s.key(t, "left-0", nil)
	if a := s.load(t, plans("1/h", "1/month", "")); a.status == http.StatusOK || !strings.Contains(a.body, "3 tenants are on plan 'gone'") {
		t.Errorf("a plan with tenants was removed: %d %s", a.status, a.body)
	}
	s.call(t, "GET", "/", last.full).passed()
	left(5)
	s.reload(t, plans("1000/h", "50/month", "\t\tplan heir {\n\t\t\twas gone\n\t\t\trate 7/h\n\t\t}\n\t\tdefault_plan free\n"))
	a = s.call(t, "GET", "/", last.full).passed()
	if a.number("X-RateLimit-Limit") != 7 || a.reached.header.Get("X-Tenant-Plan") != "heir" {
		t.Errorf("a tenant of the former plan: limit %s, plan %s", a.header.Get("X-RateLimit-Limit"), a.reached.header.Get("X-Tenant-Plan"))
	}
	testkit.Eventually(t, "the tenants are on the new plan", func() bool { return s.read(t, "/v1/tenants/left-2").text("plan") == "heir" })
	// No tenant is on the former plan any more, so `was` can be removed.
	s.reload(t, plans("1000/h", "50/month", "\t\tplan heir {\n\t\t\trate 7/h\n\t\t}\n\t\tdefault_plan free\n"))
	a = s.call(t, "GET", "/", last.full).passed()
	if got := a.number("X-RateLimit-Remaining"); got != 5 {
		t.Errorf("after the move %d left, want 5", got)
	}
}

// If a reload fails because of another app, keys, plans and tenants stay unchanged.
func TestReloadRejected(t *testing.T) {
	t.Parallel()
	good := caddyfile("\t\tplan free {\n\t\t\trate 60/h\n\t\t}\n\t\tplan old\n\t\tdefault_plan free\n", "keygate")
	s := startPlain(t, good)
	s.tenant(t, "acme", nil)
	s.tenant(t, "former", record{"plan": "old"})
	k, former := s.key(t, "acme", nil), s.key(t, "former", nil)
	for range 10 {
		s.call(t, "GET", "/", k.full).passed()
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	bad := caddyfile("\t\tplan free {\n\t\t\trate 5/h\n\t\t}\n\t\tplan new {\n\t\t\twas old\n\t\t}\n\t\tdefault_plan new\n", "keygate {\n\t\tpublic /\n\t}") +
		"\nhttp://" + ln.Addr().String() + " {\n\trespond ok\n}\n"
	remaining := int64(49)
	// Caddy starts the apps in random order, so the test repeats the reload.
	for range 6 {
		if a := s.load(t, bad); a.status == http.StatusOK {
			t.Fatal("a configuration with a port in use was loaded")
		}
		a := s.call(t, "GET", "/", k.full).passed()
		if got := a.number("X-RateLimit-Remaining"); a.number("X-RateLimit-Limit") != 60 || got < remaining || got > remaining+1 {
			t.Fatalf("after a rejected reload: %d of %d left, want %d of 60", got, a.number("X-RateLimit-Limit"), remaining)
		}
		remaining--
		s.send(t, "GET", "/", "").rejected(http.StatusUnauthorized)
		if got := s.read(t, "/v1/tenants/former").text("plan"); got != "old" {
			t.Fatalf("the tenant was moved to %s", got)
		}
		s.call(t, "GET", "/", former.full).passed()
		if plans := s.read(t, "/v1/plans").records("data"); len(plans) != 2 || plans[0].text("name") != "free" {
			t.Fatalf("the plans are %v", plans)
		}
		slug := randomText(8)
		if s.manage(t, "POST", "/v1/tenants", record{"slug": slug}).want(http.StatusCreated).json().text("plan") != "free" {
			t.Fatal("the default plan of the rejected configuration is in effect")
		}
	}
	s.reload(t, good)
	s.call(t, "GET", "/", k.full).passed()
}

// A reload with a wrong pepper is rejected, and a new pepper replaces the former one.
func TestReloadPeppers(t *testing.T) {
	t.Parallel()
	const one, two = "the first pepper of this test", "another pepper, of later on"
	with := func(peppers ...string) string {
		line := ""
		if len(peppers) > 0 {
			line = "\t\tpepper"
			for _, p := range peppers {
				line += ` "` + p + `"`
			}
			line += "\n"
		}
		return caddyfile(line+"\t\tplan free\n", "keygate")
	}
	s := startPlain(t, with())
	s.tenant(t, "acme", nil)
	before := s.key(t, "acme", nil)
	s.reload(t, with(one))
	s.call(t, "GET", "/", before.full).passed() // The key's digest is soon stored under the new pepper.
	first := s.key(t, "acme", nil)
	unused := s.key(t, "acme", nil)

	for _, wrong := range [][]string{nil, {two}, {two, two + "?"}, {one, two}} {
		if a := s.load(t, with(wrong...)); a.status == http.StatusOK || strings.Contains(a.body, one) || strings.Contains(a.body, two) {
			t.Errorf("peppers %q: %d %s", wrong, a.status, a.body)
		}
	}
	s.reload(t, with(two, one))
	used := []key{before, first, s.key(t, "acme", nil)}
	for _, k := range used {
		s.call(t, "GET", "/", k.full).passed()
	}
	// Without the former pepper, the keys that were used since the change still work. The unused
	// key does not.
	testkit.Eventually(t, "the keys are stored under the new pepper", func() bool {
		s.reload(t, with(two))
		for _, k := range used {
			if s.call(t, "GET", "/", k.full).status != http.StatusOK {
				s.reload(t, with(two, one))
				return false
			}
		}
		return true
	})
	s.call(t, "GET", "/", unused.full).rejected(http.StatusUnauthorized)
	s.reload(t, with(two, one))
	s.call(t, "GET", "/", unused.full).passed()
	s.stop()

	// At the start, a wrong pepper is rejected too.
	for _, wrong := range []string{with(), with("neither the one nor the other")} {
		s.config = written(t, wrong)
		r := s.command(t, "", "run", "--config", s.config, "--adapter", "caddyfile").exits(1)
		if !strings.Contains(r.err, "pepper") || strings.Contains(r.err, two) {
			t.Errorf("a wrong pepper: %s", r.err)
		}
	}
	s.config = written(t, with(two, one))
	s.start()
	for _, k := range append(used, unused) {
		s.call(t, "GET", "/", k.full).passed()
	}
}

// A keyspace that a reload removes and another adds again has all its data.
func TestReloadKeyspaces(t *testing.T) {
	t.Parallel()
	one := caddyfile("\t\tkeyspace a {\n\t\t\tprefix a_live_\n\t\t\tplan free\n\t\t}\n", "keygate a")
	both := caddyfile("\t\tkeyspace a {\n\t\t\tprefix a_live_\n\t\t\tplan free\n\t\t}\n\t\tkeyspace b {\n\t\t\tprefix b_live_\n\t\t\tplan slow {\n\t\t\t\trate 3/h\n\t\t\t}\n\t\t}\n",
		"handle /b/* {\n\t\tkeygate b\n\t}\n\thandle {\n\t\tkeygate a\n\t}")
	s := startPlain(t, one)
	a := &site{gateway: s.gateway, product: product{name: "a", plan: "free"}}
	b := &site{gateway: s.gateway, product: product{name: "b", plan: "slow"}, mount: "/b"}
	a.tenant(t, "acme", nil)
	ka := a.key(t, "acme", nil)
	b.manage(t, "GET", "/v1/tenants", nil).want(http.StatusNotFound)
	a.reload(t, both)
	b.tenant(t, "acme", nil)
	kb := b.key(t, "acme", nil)
	for range 3 {
		a.call(t, "GET", "/x", ka.full).passed()
		b.call(t, "GET", "/x", kb.full).passed()
	}
	b.call(t, "GET", "/x", kb.full).rejected(http.StatusTooManyRequests)
	a.call(t, "GET", "/b/x", ka.full).rejected(http.StatusUnauthorized)
	a.reload(t, one)
	a.call(t, "GET", "/x", ka.full).passed()
	a.call(t, "GET", "/b/x", kb.full).rejected(http.StatusUnauthorized)
	b.manage(t, "GET", "/v1/tenants/acme", nil).want(http.StatusNotFound)
	a.reload(t, both)
	b.call(t, "GET", "/x", kb.full).rejected(http.StatusTooManyRequests)
	b.read(t, "/v1/keys/"+kb.id)
}

// An open stream continues over reloads, and ends when its key is revoked.
func TestReloadStreams(t *testing.T) {
	t.Parallel()
	config := func(version string) string {
		return strings.Replace(caddyfile("\t\tplan free {\n\t\t\tconcurrency 3\n\t\t}\n", "keygate\n\theader X-Version "+version),
			"reverse_proxy {$KEYGATE_UPSTREAM}", "reverse_proxy {$KEYGATE_UPSTREAM} {\n\t\tstream_close_delay 10m\n\t\tflush_interval -1\n\t}", 1)
	}
	s := startPlain(t, config("0"))
	s.upstream.answer("/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := 0; r.Context().Err() == nil; i++ {
			if _, err := fmt.Fprintf(w, "data: %d\n\n", i); err != nil {
				return
			}
			_ = http.NewResponseController(w).Flush()
			select {
			case <-r.Context().Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	s.upstream.answer("/socket", func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = conn.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"))
		_, _ = io.Copy(conn, rw) // The handler echoes what it reads.
	})
	s.tenant(t, "acme", nil)
	k := s.key(t, "acme", nil)

	r, _ := s.request(t, "GET", "/events", "", "Authorization", "Bearer "+k.full)
	resp, err := s.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	events := bufio.NewReader(resp.Body)
	readEvent := func() error {
		_, err := events.ReadString('\n')
		return err
	}
	socket, err := net.Dial("tcp", strings.TrimPrefix(s.site, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	_ = socket.SetDeadline(time.Now().Add(2 * patience))
	fmt.Fprintf(socket, "GET /socket HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nAuthorization: Bearer %s\r\n\r\n", strings.TrimPrefix(s.site, "http://"), k.full)
	in := bufio.NewReader(socket)
	upgrade, err := http.ReadResponse(in, nil)
	if err != nil || upgrade.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrading: %v %v", upgrade, err)
	}
	echoes := func(text string) error {
		if _, err := fmt.Fprintln(socket, text); err != nil {
			return err
		}
		got, err := in.ReadString('\n')
		if err == nil && strings.TrimSpace(got) != text {
			err = fmt.Errorf("the echo is %q", got)
		}
		return err
	}
	for i := range 5 {
		if err := readEvent(); err != nil {
			t.Fatalf("the event stream after %d reloads: %v", i, err)
		}
		if err := echoes("hello " + strconv.Itoa(i)); err != nil {
			t.Fatalf("the socket after %d reloads: %v", i, err)
		}
		s.reload(t, config(strconv.Itoa(i+1)))
	}
	// Under the new configuration, both streams still count against the key's three slots.
	s.call(t, "GET", "/", k.full).passed()
	r, _ = s.request(t, "GET", "/events", "", "Authorization", "Bearer "+k.full)
	third, err := s.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	s.call(t, "GET", "/", k.full).rejected(http.StatusTooManyRequests).problem("concurrency_exceeded")
	third.Body.Close()
	s.post(t, k, "revoke", nil)
	ended := make(chan error, 2)
	go func() {
		for readEvent() == nil {
		}
		ended <- nil
	}()
	go func() {
		_, err := in.ReadString('\n')
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			ended <- err
			return
		}
		ended <- nil
	}()
	for range 2 {
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(patience):
			t.Fatal("a stream outlived its key")
		}
	}
}
