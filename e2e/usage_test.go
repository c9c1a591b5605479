package e2e

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
)

const usageConfig = `{
	admin {$KEYGATE_ADMIN}
	keygate {
		store sqlite {$KEYGATE_DB}
		prefix kg_live_ live
		scopes admin > read
		plan free {
			rate 200/d
		}
		plan paid {
			credits
		}
		plan none {
			deny
		}
		default_plan free
		requests {
			keep 30
			for 1h
		}
	}
}
{$KEYGATE_LISTEN} {
	keygate {
		public /open
		scope /admin/* admin
		cost /v1/dear 5 {
			refund 5xx
			actual X-Credits-Used
		}
	}
	reverse_proxy {$KEYGATE_UPSTREAM} {
		flush_interval -1
	}
}
`

// used is the sum of the lines of a usage report.
type used struct {
	requests, allowed, upstreamErrors, credits, in, out int64
	refused                                             map[string]int64
}

// sum adds up the lines of a usage report.
func sum(t testing.TB, report record) used {
	t.Helper()
	u := used{refused: map[string]int64{}}
	n := func(l record, name string) int64 {
		v, ok := l[name].(float64)
		if !ok {
			t.Errorf("a line without %s: %v", name, l)
		}
		return int64(v)
	}
	for _, l := range report.records("data") {
		u.requests += n(l, "requests")
		u.allowed += n(l, "allowed")
		u.upstreamErrors += n(l, "upstream_errors")
		u.credits += n(l, "credits")
		u.in += n(l, "bytes_in")
		u.out += n(l, "bytes_out")
		refused, _ := l["refused"].(map[string]any)
		total := n(l, "allowed")
		for reason := range refused {
			u.refused[reason] += n(refused, reason)
			total += n(refused, reason)
		}
		if total != n(l, "requests") {
			t.Errorf("requests is not the sum of allowed and refused: %v", l)
		}
		if _, err := time.Parse(time.RFC3339, l.text("from")); err != nil {
			t.Error(err)
		}
	}
	return u
}

// The usage report equals exactly what was sent, with concurrent traffic of all kinds. It stays
// exact over a clean stop with open requests, and after keys and tenants are deleted.
func TestUsageIsExact(t *testing.T) {
	t.Parallel()
	up := newUpstream(t)
	up.answer("/v1/bad", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusBadGateway)
	})
	up.answer("/v1/dear", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Credits-Used", "3")
		_, _ = io.WriteString(w, "dear")
	})
	reached, unblock := make(chan struct{}, 100), make(chan struct{})
	up.answer("/v1/hang", func(_ http.ResponseWriter, r *http.Request) {
		reached <- struct{}{}
		<-r.Context().Done()
	})
	up.answer("/v1/stream", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 5 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			_ = http.NewResponseController(w).Flush()
		}
		if r.URL.RawQuery == "wait" {
			reached <- struct{}{}
			<-unblock
		}
		_, _ = io.WriteString(w, "data: end\n\n")
	})
	up.answer("/v1/broken", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	g := start(t, written(t, usageConfig), up)
	s := &site{gateway: g, product: product{name: "default", prefix: "kg_live_", random: 32, checksum: 6}}
	const from = "?from=2020-01-01&to=2020-02-01&step=day"
	s.manage(t, "POST", "/v1/tenants", record{"slug": "acme", "plan": "free"}).want(http.StatusCreated)
	s.manage(t, "POST", "/v1/tenants", record{"slug": "paid", "plan": "paid", "credits": 100}).want(http.StatusCreated)
	a, b := s.key(t, "acme", record{"scopes": []string{"read"}}), s.key(t, "acme", record{"allowed_ips": []string{"192.0.2.1"}})
	p := s.key(t, "paid", nil)
	send := func(k key, method, path, body string) *answer {
		return g.send(t, method, path, body, "Authorization", "Bearer "+k.full)
	}
	cancelled := func(k key, path string) {
		t.Helper()
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		r, _ := g.request(t, "GET", path, "", "Authorization", "Bearer "+k.full)
		done := make(chan error, 1)
		go func() {
			resp, err := g.client.Do(r.WithContext(ctx))
			if err == nil {
				resp.Body.Close()
			}
			done <- err
		}()
		<-reached
		cancel()
		if err := <-done; err == nil || !errors.Is(err, context.Canceled) {
			t.Errorf("a cancelled request ended with %v", err)
		}
	}

	// Four workers send traffic with key a at once.
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 10 {
				send(a, "GET", "/v1/x", "").passed()
				send(a, "POST", "/v1/bad", "12345").want(http.StatusBadGateway)
				send(a, "GET", "/admin/x", "").rejected(http.StatusForbidden)
				send(b, "GET", "/v1/x", "").rejected(http.StatusForbidden)
				if body := send(a, "GET", "/v1/stream", "").want(http.StatusOK).body; strings.Count(body, "data:") != 6 {
					t.Errorf("the stream was %q", body)
				}
			}
		})
	}
	all.Wait()
	// Requests on public paths and with unknown or missing keys are not usage.
	g.send(t, "GET", "/open", "").want(http.StatusOK)
	g.send(t, "GET", "/v1/x", "").rejected(http.StatusUnauthorized)
	g.send(t, "GET", "/v1/x", "", "Authorization", "Bearer "+s.unknown()).rejected(http.StatusUnauthorized)
	for range 3 {
		cancelled(a, "/v1/hang")
	}
	r, _ := g.request(t, "GET", "/v1/broken", "", "Authorization", "Bearer "+a.full)
	if resp, err := g.client.Do(r); err == nil {
		if _, err = io.Copy(io.Discard, resp.Body); err == nil {
			t.Error("a broken response ended well")
		}
		resp.Body.Close()
	}
	verify := func(path string, allowed bool) {
		t.Helper()
		if got := s.manage(t, "POST", "/v1/verify", record{"key": a.full, "path": path}).want(http.StatusOK).json()["allowed"]; got != allowed {
			t.Errorf("verify returns %v", got)
		}
	}
	verify("/v1/x", true)
	verify("/admin/x", false)
	s.manage(t, "POST", "/v1/explain", record{"key": a.full}).want(http.StatusOK)
	passed := int64(40*3 + 3 + 1 + 1)
	// These requests use up the rest of the day's rate.
	for n := passed; n < 200; n++ {
		send(a, "GET", "/v1/x", "").passed()
		passed++
	}
	for range 7 {
		send(a, "GET", "/v1/x", "").rejected(http.StatusTooManyRequests)
	}
	s.post(t, a, "disable", nil)
	for range 2 {
		send(a, "GET", "/v1/x", "").rejected(http.StatusUnauthorized)
	}
	// The cost is the rule's cost, or the cost that the upstream states.
	send(p, "GET", "/v1/x", "").passed()
	if got := send(p, "GET", "/v1/dear", "").want(http.StatusOK).body; got != "dear" {
		t.Error(got)
	}
	// The response ends before its cost is settled.
	testkit.Eventually(t, "the balance is 96", func() bool { return s.balance(t, "paid") == 96 })

	report := func(path string) record { t.Helper(); return s.read(t, path) }
	wantA := used{requests: passed + 1 + 40 + 7 + 2, allowed: passed, upstreamErrors: 40 + 1, in: 40 * 5,
		refused: map[string]int64{"insufficient_scope": 41, "rate_limited": 7, "disabled_key": 2}}
	check := func(what string, got, want used) {
		t.Helper()
		if got.requests != want.requests || got.allowed != want.allowed || got.upstreamErrors != want.upstreamErrors || got.credits != want.credits ||
			got.in != want.in || fmt.Sprint(got.refused) != fmt.Sprint(want.refused) {
			t.Errorf("%s used\n%+v, want\n%+v", what, got, want)
		}
	}
	testkit.Eventually(t, "the usage of all requests is complete", func() bool {
		until, err := time.Parse(time.RFC3339Nano, report("/v1/keys/"+a.id+"/usage").text("complete_until"))
		if err != nil || time.Since(until) >= time.Minute {
			return false
		}
		for path, requests := range map[string]int64{"keys/" + a.id: wantA.requests, "keys/" + b.id: 40, "tenants/acme": wantA.requests + 40, "tenants/paid": 2} {
			if sum(t, report("/v1/"+path+"/usage")).requests < requests {
				return false
			}
		}
		return true
	})
	checkAll := func() {
		t.Helper()
		check("key a", sum(t, report("/v1/keys/"+a.id+"/usage")), wantA)
		check("key b", sum(t, report("/v1/keys/"+b.id+"/usage?step=day")), used{requests: 40, refused: map[string]int64{"ip_not_allowed": 40}})
		both := used{requests: wantA.requests + 40, allowed: wantA.allowed, upstreamErrors: wantA.upstreamErrors, in: wantA.in,
			refused: map[string]int64{"ip_not_allowed": 40}}
		for reason, n := range wantA.refused {
			both.refused[reason] = n
		}
		check("the tenant", sum(t, report("/v1/tenants/acme/usage")), both)
		check("the other tenant", sum(t, report("/v1/tenants/PAID/usage")), used{requests: 2, allowed: 2, credits: 4, refused: map[string]int64{}})
		for _, group := range []string{"tenant", "key"} {
			perGroup := map[string]int64{}
			for _, l := range report("/v1/usage?step=day&group_by=" + group).records("data") {
				perGroup[l.text(group)] += int64(l["requests"].(float64))
			}
			want := map[string]int64{"acme": both.requests, "paid": 2}
			if group == "key" {
				want = map[string]int64{a.id: wantA.requests, b.id: 40, p.id: 2}
			}
			if fmt.Sprint(perGroup) != fmt.Sprint(want) {
				t.Errorf("by %s: %v, want %v", group, perGroup, want)
			}
		}
	}
	checkAll()
	if n := len(report("/v1/keys/" + a.id + "/usage" + from).list("data")); n != 0 {
		t.Errorf("%d lines of years ago", n)
	}

	// A stop waits for an open stream, which counts when it ends.
	s.post(t, a, "enable", nil)
	s.patch(t, "/v1/tenants/acme", record{"rate": "300/d"})
	r, _ = g.request(t, "GET", "/v1/stream?wait", "", "Authorization", "Bearer "+a.full)
	resp, err := g.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	<-reached
	send(a, "GET", "/v1/x", "").passed()
	stopped := make(chan struct{})
	go func() { defer close(stopped); g.stop() }()
	testkit.Eventually(t, "the listener is closed", func() bool {
		resp, err := http.Get(g.site + "/open")
		if err == nil {
			resp.Body.Close()
		}
		return err != nil
	})
	close(unblock)
	if b, err := io.ReadAll(resp.Body); err != nil || !strings.HasSuffix(string(b), "data: end\n\n") {
		t.Errorf("the stream ended with %q, %v", b, err)
	}
	resp.Body.Close()
	<-stopped
	wantA.requests, wantA.allowed = wantA.requests+2, wantA.allowed+2
	g.start()
	checkAll()

	// The list of the last requests survives the restart.
	list := report("/v1/keys/" + a.id + "/requests?limit=100").records("data")
	if len(list) > 1 && list[0].text("path") == "/v1/x" {
		// On a busy machine, the request before the stream may be recorded after it: a response ends before its request is recorded.
		list[0], list[1] = list[1], list[0]
	}
	if len(list) != 30 || list[0].text("path") != "/v1/stream" || list[0]["status"] != float64(200) || list[0].text("reason") != "allowed" ||
		list[0].text("method") != "GET" || list[0].text("address") != "127.0.0.1" || list[1].text("path") != "/v1/x" {
		t.Errorf("the last requests are %d: %v", len(list), list)
	}
	reasons := map[string]int{}
	for _, r := range list {
		reasons[r.text("reason")]++
	}
	if reasons["disabled_key"] != 2 || reasons["rate_limited"] != 7 {
		t.Errorf("the last requests' reasons are %v", reasons)
	}
	// The list in pages has the same requests.
	var pages []string
	for cursor := ""; ; {
		page := report("/v1/keys/" + a.id + "/requests?limit=7" + cursor)
		for _, r := range page.records("data") {
			pages = append(pages, r.text("time"))
		}
		if page.text("next_cursor") == "" {
			break
		}
		cursor = "&cursor=" + page.text("next_cursor")
	}
	for i, r := range list {
		if len(pages) != len(list) || pages[i] != r.text("time") {
			t.Fatalf("%d requests in pages, %d in one", len(pages), len(list))
		}
	}

	// Usage is available as CSV, and by the commands.
	for _, how := range []struct {
		path   string
		header []string
	}{{"/v1/usage?group_by=tenant&format=csv", nil}, {"/v1/usage?group_by=tenant", []string{"Accept", "text/csv"}}} {
		got := s.manage(t, "GET", how.path, nil, how.header...).want(http.StatusOK)
		rows, err := csv.NewReader(strings.NewReader(got.body)).ReadAll()
		if err != nil || len(rows) < 3 || rows[0][0] != "from" || !strings.HasPrefix(got.header.Get("Content-Type"), "text/csv") {
			t.Errorf("CSV: %v %q", err, got.body)
		}
	}
	if out := g.keygate(t, "usage", "--tenant", "acme", "--step", "day", "--from", "30d").exits(0).out; !strings.Contains(out, "rate_limited 7") {
		t.Error(out)
	}
	if out := g.keygate(t, "usage", "--group-by", "key", "--csv").exits(0).out; !strings.HasPrefix(out, "from,tenant,key,requests") {
		t.Error(out)
	}
	check("a, as the command says,", sum(t, g.keygate(t, "usage", "--key", a.id, "--json").json()), wantA)
	if out := g.keygate(t, "requests", a.id, "--limit", "5").exits(0).out; !strings.Contains(out, "/v1/stream") {
		t.Error(out)
	}
	g.keygate(t, "usage", "--from", "yesterday").exits(2)
	g.keygate(t, "usage", "--tenant", "nobody").exits(1)

	// Usage remains after keys and tenants are deleted.
	s.manage(t, "DELETE", "/v1/keys/"+b.id, nil).want(http.StatusNoContent)
	checkAll()
	s.manage(t, "DELETE", "/v1/tenants/acme?force=true", nil).want(http.StatusNoContent)
	checkAll()
	for _, bad := range []string{"step=minute", "from=then", "to=2020", "from=2027-01-02&to=2027-01-01", "group_by=plan", "format=xml", "from=2010-01-01", "page=1"} {
		s.manage(t, "GET", "/v1/usage?"+bad, nil).want(http.StatusUnprocessableEntity)
	}
	s.manage(t, "GET", "/v1/keys/key_none/usage", nil).want(http.StatusNotFound)
	s.manage(t, "GET", "/v1/keys/key_none/requests", nil).want(http.StatusNotFound)
}
