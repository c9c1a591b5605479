package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
)

// mayLose returns how much time before a crash may be missing in the counts. Older counts must survive.
func mayLose(t testing.TB) time.Duration {
	if raced(t) {
		// Under the race detector, the gateway takes several times as long to write counts. Other tests use the
		// processors at the same time.
		return 3 * time.Second
	}
	return time.Second
}

const crashPlans = `
		failures off
		plan free
		plan counted {
			quota 1000000/month
		}
		plan paid {
			credits
		}
		default_plan free
`

// acknowledged is the set of changes that the management API has acknowledged.
type acknowledged struct {
	tenants map[string]bool
	keys    map[string]*crashKey
	// events counts audit events by action and target.
	events map[[2]string]int
}

// crashKey is the expected state of a key.
type crashKey struct {
	id, full string
	revoked  bool
	// former are the secrets of the key that rotations replaced.
	former []string
	// uncertain is true if the process was killed before it answered a request that changes the key.
	uncertain bool
}

// writer is a client of the management API that changes only its own tenants and keys.
type writer struct {
	s      *site
	name   string
	n      int
	rand   *rand.Rand
	client *http.Client
	acknowledged
	tenant string
	own    []*crashKey
}

func newWriter(s *site, i int) *writer {
	return &writer{s: s, name: fmt.Sprintf("w%d", i), rand: rand.New(rand.NewPCG(uint64(i), 7)),
		client:       &http.Client{Transport: &http.Transport{}, Timeout: patience},
		acknowledged: acknowledged{map[string]bool{}, map[string]*crashKey{}, map[[2]string]int{}}}
}

// post calls the management API. If post returns an error, the change may or may not have been made.
func (w *writer) post(path string, body record, want int) (record, error) {
	sent, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	resp, err := w.client.Post("http://"+w.s.adminAddr+"/keygate"+path, "application/json", bytes.NewReader(sent))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != want {
		return nil, fmt.Errorf("POST %s answered %d %s", path, resp.StatusCode, b)
	}
	var r record
	return r, json.Unmarshal(b, &r)
}

// write makes one random change, and records the change when the API has acknowledged it.
func (w *writer) write() error {
	choice := w.rand.IntN(10)
	var k *crashKey
	if len(w.own) > 0 {
		k = w.own[w.rand.IntN(len(w.own))]
	}
	switch {
	case w.tenant == "" || choice == 0:
		w.n++
		slug := fmt.Sprintf("%s-%d", w.name, w.n)
		if _, err := w.post("/v1/tenants", record{"slug": slug}, http.StatusCreated); err != nil {
			return err
		}
		w.tenant = slug
		w.tenants[slug] = true
		w.events[[2]string{"tenant.created", slug}]++
	case k == nil || choice < 5:
		r, err := w.post("/v1/tenants/"+w.tenant+"/keys", record{"name": "crash"}, http.StatusCreated)
		if err != nil {
			return err
		}
		k = &crashKey{id: r.text("id"), full: r.text("key")}
		w.own = append(w.own, k)
		w.keys[k.id] = k
		w.events[[2]string{"key.created", k.id}]++
	case k.revoked || k.uncertain:
		return nil
	case choice < 8:
		if _, err := w.post("/v1/keys/"+k.id+"/revoke", record{}, http.StatusOK); err != nil {
			k.uncertain = true
			return err
		}
		k.revoked = true
		w.events[[2]string{"key.revoked", k.id}]++
	default:
		r, err := w.post("/v1/keys/"+k.id+"/rotate", record{"grace": "0s"}, http.StatusOK)
		if err != nil {
			k.uncertain = true
			return err
		}
		k.former, k.full = append(k.former, k.full), r.text("key")
		w.events[[2]string{"key.rotated", k.id}]++
	}
	return nil
}

// all returns the entries of all pages of a list.
func (s *site) all(t testing.TB, path string) (out []record) {
	t.Helper()
	for cursor := ""; ; {
		r := s.read(t, query(path, "limit", "100", "cursor", cursor))
		out = append(out, r.records("data")...)
		if cursor = r.text("next_cursor"); cursor == "" {
			return out
		}
	}
}

// spender sends requests, one after another, with a key whose plan has a quota or credits. It
// records the time of each request that passes.
type spender struct {
	key    string
	client *http.Client
	mu     sync.Mutex
	passed []time.Time
	// attempts is the number of requests that may have been charged.
	attempts int64
}

func (sp *spender) spend(s *site) error {
	sp.mu.Lock()
	sp.attempts++
	sp.mu.Unlock()
	c := &caller{name: "spender", key: sp.key, want: http.StatusOK}
	_, err := c.try(sp.client, s)
	if err == nil {
		sp.mu.Lock()
		sp.passed = append(sp.passed, time.Now())
		sp.mu.Unlock()
	}
	return err
}

// bounds returns the least and the greatest number of requests that a killed process may have counted, and
// resets both numbers. A request that passed before the time written must have been counted.
func (sp *spender) bounds(written time.Time) (least, most int64) {
	for _, at := range sp.passed {
		if at.Before(written) {
			least++
		}
	}
	most = sp.attempts
	sp.passed, sp.attempts = nil, 0
	return least, most
}

// used returns how much of a key's quota of the given size is used. Reading it uses one more.
func (s *site) used(t testing.TB, key string, size int64) int64 {
	t.Helper()
	return size - s.call(t, "GET", "/", key).passed().number("X-RateLimit-Remaining") - 1
}

// TestKill kills a gateway under load several times, and checks that the gateway keeps every change that
// it acknowledged.
func TestKill(t *testing.T) {
	t.Parallel()
	startPlain(t, caddyfile(crashPlans, "keygate")).killRepeatedly(t, 6)
}

// TestClusterKill kills one of two gateways that share a database under load. The killed gateway must keep
// every change that it acknowledged. The other gateway must serve requests without a failure.
func TestClusterKill(t *testing.T) {
	t.Parallel()
	c := shared(t, 2, crashPlans)
	other := c.nodes[0]
	other.tenant(t, "steady", nil)
	steady := &caller{key: other.key(t, "steady", nil).full, want: http.StatusOK}
	stop := make(chan struct{})
	var load sync.WaitGroup
	load.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
			}
			if err := steady.call(other.client, other); err != nil {
				t.Errorf("the gateway that was not killed: %v", err)
				return
			}
		}
	})
	c.nodes[1].killRepeatedly(t, 3)
	close(stop)
	load.Wait()
	// Credits that the killed gateway had leased return to the balance, and both gateways report
	// the same balance.
	if a, b := c.nodes[0].balance(t, "paid"), c.nodes[1].balance(t, "paid"); a != b {
		t.Errorf("one gateway reports the balance %d, the other %d", a, b)
	}
}

// killRepeatedly kills the gateway under load as many times as rounds states. It checks that acknowledged
// changes and counts survive.
func (s *site) killRepeatedly(t *testing.T, rounds int) {
	t.Helper()
	const (
		quota   = 1_000_000
		initial = 1_000_000
	)
	s.tenant(t, "counted", record{"plan": "counted"})
	s.tenant(t, "paid", record{"plan": "paid", "credits": initial})
	newSpender := func(slug string) *spender {
		return &spender{key: s.key(t, slug, nil).full, client: &http.Client{Transport: &http.Transport{}, Timeout: patience}}
	}
	counted, paid := newSpender("counted"), newSpender("paid")
	writers := make([]*writer, 4)
	for i := range writers {
		writers[i] = newWriter(s, i)
	}
	var used, balance int64 = 0, initial
	for round := range rounds {
		// A writer's error fails the test only if the error occurs before the channel killing is closed.
		killing := make(chan struct{})
		var clients sync.WaitGroup
		run := func(step func() error) {
			clients.Go(func() {
				for {
					if err := step(); err != nil {
						select {
						case <-killing:
						default:
							t.Error(err)
						}
						return
					}
				}
			})
		}
		for _, w := range writers {
			run(w.write)
		}
		run(func() error { return counted.spend(s) })
		run(func() error { return paid.spend(s) })
		// Adding to the balance recalls the credits that the gateway has leased.
		var added, maybe int64
		run(func() error {
			time.Sleep(20 * time.Millisecond)
			maybe = 3
			_, err := writers[0].post("/v1/tenants/paid/credits", record{"add": 3}, http.StatusOK)
			if err == nil {
				added, maybe = added+3, 0
			}
			return err
		})
		time.Sleep(time.Duration(500+rand.IntN(1500)) * time.Millisecond)
		close(killing)
		written := time.Now().Add(-mayLose(t))
		s.kill()
		clients.Wait()
		s.client.CloseIdleConnections()
		s.start()

		for _, w := range writers {
			w.client.CloseIdleConnections()
		}
		s.checkAcknowledged(t, writers)
		least, most := counted.bounds(written)
		now := s.used(t, counted.key, quota)
		t.Logf("round %d: %d to %d requests counted, %d after the restart", round+1, least, most, now-used)
		if now < used+least || now > used+most {
			t.Errorf("round %d: %d requests are counted, want %d to %d", round+1, now-used, least, most)
		}
		used = now + 1
		least, most = paid.bounds(written)
		after := s.balance(t, "paid")
		t.Logf("round %d: %d added, %d to %d credits spent, %d after the restart", round+1, added, least, most, balance+added-after)
		if after < balance+added-most || after > balance+added+maybe-least {
			t.Errorf("round %d: the balance went from %d to %d with %d to %d added and %d to %d spent", round+1, balance, after, added, added+maybe, least, most)
		}
		balance = after
		if t.Failed() {
			return
		}
	}
	r := s.keygate(t, "audit", "--verify").exits(0)
	if !strings.Contains(r.out, "events") {
		t.Errorf("audit --verify prints %q", r.out)
	}
}

// checkAcknowledged checks that every acknowledged change is still in effect.
func (s *site) checkAcknowledged(t *testing.T, writers []*writer) {
	t.Helper()
	tenants, keys, events := map[string]bool{}, map[string]record{}, map[[2]string]int{}
	for _, r := range s.all(t, "/v1/tenants") {
		tenants[r.text("slug")] = true
	}
	for _, r := range s.all(t, "/v1/keys") {
		keys[r.text("id")] = r
	}
	for _, r := range s.all(t, "/v1/audit") {
		events[[2]string{r.text("action"), r.text("target")}]++
	}
	count := 0
	for _, w := range writers {
		for slug := range w.tenants {
			if !tenants[slug] {
				t.Errorf("tenant %s is missing", slug)
			}
		}
		for id, k := range w.keys {
			status := "active"
			if k.revoked {
				status = "revoked"
			}
			if r := keys[id]; r == nil || r.text("status") != status && !k.uncertain {
				t.Errorf("key %s is %v, want %s", id, r["status"], status)
			}
		}
		for e, n := range w.events {
			count += n
			if events[e] < n {
				t.Errorf("%d events %s of %s, want %d", events[e], e[0], e[1], n)
			}
		}
		// Only the newest keys are used, because requests with all keys would take too long.
		for _, k := range w.own[max(0, len(w.own)-8):] {
			if k.uncertain {
				continue
			}
			if k.revoked {
				s.call(t, "GET", "/", k.full).rejected(http.StatusUnauthorized).problem("revoked_key")
			} else {
				s.call(t, "GET", "/", k.full).passed()
			}
			for _, former := range k.former[max(0, len(k.former)-2):] {
				s.call(t, "GET", "/", former).rejected(http.StatusUnauthorized)
			}
		}
	}
	if r := s.read(t, "/v1/audit/verify"); r["intact"] != true || len(r.list("problems")) > 0 {
		t.Errorf("the audit chain: %v", r)
	}
	t.Logf("%d acknowledged changes are there", count)
}

// TestKillAfterASecond checks that a crash loses at most the counts of the last second.
func TestKillAfterASecond(t *testing.T) {
	t.Parallel()
	s, spent := startCountedSite(t)
	spent(17)
	time.Sleep(mayLose(t))
	s.kill()
	s.start()
	s.wantSpent(t, 17)
}

// TestStopLosesNothing checks that a clean stop loses no counts, not even those of requests shortly before
// the stop.
func TestStopLosesNothing(t *testing.T) {
	t.Parallel()
	s, spent := startCountedSite(t)
	total := int64(0)
	for _, n := range []int{1, 9, 30} {
		before := time.Now().Add(-time.Millisecond)
		spent(n)
		s.restart()
		total += int64(n)
		s.wantSpent(t, total)
		total++ // Reading the quota costs one request.
		for _, k := range s.all(t, "/v1/keys") {
			at, err := time.Parse(time.RFC3339Nano, k.text("last_used_at"))
			if err != nil || at.Before(before) || k.text("last_used_ip") != "127.0.0.1" {
				t.Errorf("key %s was last used at %v from %v, want after %v", k.text("name"), k["last_used_at"], k["last_used_ip"], before)
			}
		}
	}

	// Exactly the requests that got a response are counted when the gateway stops under load.
	sp := &spender{key: s.counted, client: &http.Client{Transport: &http.Transport{}, Timeout: patience}}
	pay := &spender{key: s.paid, client: sp.client}
	var clients sync.WaitGroup
	for range 3 {
		for _, sp := range []*spender{sp, pay} {
			clients.Go(func() {
				for sp.spend(s.site) == nil {
				}
			})
		}
	}
	enough := func(sp *spender) bool {
		sp.mu.Lock()
		defer sp.mu.Unlock()
		return len(sp.passed) >= 50
	}
	testkit.Eventually(t, "requests that pass", func() bool { return enough(sp) && enough(pay) })
	s.stop()
	clients.Wait()
	s.start()
	t.Logf("%d and %d requests until the stop", len(sp.passed), len(pay.passed))
	if got, least := s.used(t, s.counted, 1_000_000)-total, int64(len(sp.passed)); got < least || got > least+3 {
		t.Errorf("%d requests are counted, %d were let pass", got, least)
	}
	if got, least := 1_000_000-s.balance(t, "paid")-total, int64(len(pay.passed)); got < least || got > least+3 {
		t.Errorf("%d credits are spent, %d requests were let pass", got, least)
	}
	if len(sp.passed) == 0 || !slices.IsSortedFunc(sp.passed, time.Time.Compare) {
		t.Error("no load")
	}
}

// countedSite is a gateway with one key whose quota is counted and one key that spends credits.
type countedSite struct {
	*site
	counted, paid string
}

// startCountedSite starts a gateway with one key whose quota is counted and one key that spends credits.
// The function that it returns uses both keys n times.
func startCountedSite(t *testing.T) (*countedSite, func(int)) {
	s := &countedSite{site: startPlain(t, caddyfile(crashPlans, "keygate"))}
	s.tenant(t, "counted", record{"plan": "counted"})
	s.tenant(t, "paid", record{"plan": "paid", "credits": 1_000_000})
	s.counted, s.paid = s.key(t, "counted", nil).full, s.key(t, "paid", nil).full
	return s, func(n int) {
		for range n {
			s.call(t, "GET", "/", s.counted).passed()
			s.call(t, "GET", "/", s.paid).passed()
		}
	}
}

// wantSpent checks that both keys have spent n, and spends one more with each key.
func (s *countedSite) wantSpent(t *testing.T, n int64) {
	t.Helper()
	if got := s.used(t, s.counted, 1_000_000); got != n {
		t.Errorf("%d requests are counted, want %d", got, n)
	}
	if got := 1_000_000 - s.balance(t, "paid"); got != n {
		t.Errorf("%d credits are spent, want %d", got, n)
	}
	s.call(t, "GET", "/", s.paid).passed()
}
