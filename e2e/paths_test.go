package e2e

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/keygate-dev/keygate/internal/pathlab"
)

// labBreach is a site at which a model ran a closed route.
type labBreach struct{ site, model string }

// startLab starts a gateway with all sites, and returns the address of each site by its name.
func startLab(t *testing.T, up *wireUpstream, sites []labSite) (*site, map[string]string) {
	t.Helper()
	text := configText("servers {\n\t\tprotocols h1 h2c\n\t}", keyspaceText(`plan lab {
				quota 1000000000000/month per key
			}`), "respond 404")
	addrs := make(map[string]string)
	for _, s := range sites {
		port := freePort(t)
		addrs[s.name] = "127.0.0.1:" + port
		text += fmt.Sprintf("http://:%s {\n\tbind 127.0.0.1\n\t%s\n\treverse_proxy %s\n}\n", port, s.site, up.addr)
	}
	g := &site{gateway: start(t, written(t, text), nil), product: house}
	g.tenant(t, "lab", record{"plan": "lab"})
	return g, addrs
}

// No model of an upstream runs a closed route for a hostile spelling of a path that came through
// the gateway.
func TestPaths(t *testing.T) {
	t.Parallel()
	runLab(t, newWireUpstream(t), false)
}

// runLab sends all or some spellings to every site. It fails the test if a model runs a closed
// route, and returns the requests that arrived at each site.
func runLab(t *testing.T, up *wireUpstream, all bool) map[string][]arrival {
	t.Helper()
	g, addrs := startLab(t, up, labSites)
	hostile := make(map[string][]string)
	for _, path := range pathlab.Targets {
		hostile[path] = pathlab.Hostile(path, all)
	}
	read := modelled{handlers: make(map[string][]string)}
	var mu sync.Mutex
	arrived := make(map[string][]arrival)
	breaches := make(map[labBreach][]string)
	var wg sync.WaitGroup
	limit := make(chan struct{}, 2)
	for i, s := range labSites {
		w := &wire{t: t, addr: addrs[s.name], method: s.method, left: -1}
		if w.method == "" {
			w.method = "GET"
		}
		if s.key {
			w.key = g.key(t, "lab", record{"scopes": []string{"read"}}).full
		}
		wg.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			var targets []string
			for _, path := range s.targets {
				targets = append(targets, hostile[path]...)
			}
			if s.some && !all {
				targets = everyFourth(targets, i)
			}
			if s.key {
				w.send([]string{"/other"}) // This request only learns what is left of the key's quota.
			}
			arrivals := w.send(targets)
			if i == 0 && !all {
				w.refuses(targets)
			}
			local := read.breaches(s, arrivals)
			s.checkForm(t, w, arrivals)
			mu.Lock()
			defer mu.Unlock()
			maps.Copy(breaches, local)
			arrived[s.name] = arrivals
		})
	}
	wg.Wait()
	report(t, breaches)
	return arrived
}

// everyFourth returns every fourth element of the list, beginning at the element with the number
// turn modulo 4.
func everyFourth(list []string, turn int) []string {
	var out []string
	for i := turn % 4; i < len(list); i += 4 {
		out = append(out, list[i])
	}
	return out
}

// A path over HTTP/2 is treated as the same path over HTTP/1.
func TestPathsOverHTTP2(t *testing.T) {
	t.Parallel()
	s := labSites[0]
	_, addrs := startLab(t, newWireUpstream(t), []labSite{s})
	var targets []string
	for i, target := range pathlab.Hostile(s.targets[0], false) {
		if i%4 == 0 && strings.HasPrefix(target, "/") {
			targets = append(targets, target)
		}
	}
	w := &wire{t: t, addr: addrs[s.name], method: "GET"}
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: &protocols}
	defer transport.CloseIdleConnections()
	n := 0
	for _, a := range w.send(targets) {
		// With an opaque URL, Go's client sends the target unchanged.
		r := (&http.Request{Method: "GET", Host: w.addr, Header: http.Header{}, URL: &url.URL{Scheme: "http", Host: w.addr, Opaque: "//" + w.addr + a.sent}}).WithContext(t.Context())
		resp, err := transport.RoundTrip(r)
		if err != nil {
			t.Fatalf("%.200q: %v", a.sent, err)
		}
		resp.Body.Close()
		if b := w.arrived(a.sent, resp); b.status != a.status || b.target != a.target {
			t.Errorf("%.200q arrived as %.200q (%d) over HTTP/2, as %.200q (%d) over HTTP/1", a.sent, b.target, b.status, a.target, a.status)
		}
		n++
	}
	if n < 500 {
		t.Errorf("%d paths were sent", n)
	}
}

// refuses checks that Go's server itself rejects the targets that are not well-formed.
func (w *wire) refuses(targets []string) {
	for _, target := range targets {
		if status := w.alone(target); !w.wellFormed(target) && status != http.StatusBadRequest && status != 0 {
			w.t.Errorf("%.200q, which is no request: %d", target, status)
		}
	}
}

// checkForm checks that each target that arrived is canonical, and stays the same when it is sent
// again.
func (s *labSite) checkForm(t *testing.T, w *wire, arrivals []arrival) {
	if s.asSent {
		return
	}
	seen := make(map[string]bool)
	var again []string
	for _, a := range arrivals {
		if !a.reached || seen[a.target] {
			continue
		}
		seen[a.target] = true
		again = append(again, a.target)
		path, _, _ := strings.Cut(a.target, "?")
		if path == "*" && w.method == "OPTIONS" {
			continue
		}
		if !strings.HasPrefix(path, "/") || noncanonical.MatchString(path) || pathlab.Equivalent(path) != path {
			t.Errorf("%s: %.200q arrived as %.200q, which is not canonical", s.name, a.sent, a.target)
		}
	}
	for i, a := range w.send(again) {
		if a.reached && a.target != again[i] || !a.reached && !s.key {
			t.Errorf("%s: %.200q, which arrived, became %.200q (%d) when it was sent", s.name, again[i], a.target, a.status)
		}
	}
}

// noncanonical matches sequences that no canonical path contains.
var noncanonical = regexp.MustCompile(`//|/\.{1,2}(/|$)|[.](/|$)|%20(/|$)|[;\\#\x00-\x20\x7f-\xff]|%(2F|5C|3B|3F|23|7F|[01][0-9A-F]|25(2F|5C|2E|3B))`)

// modelled caches the handlers that each model runs for a target, since many sites forward the
// same targets.
type modelled struct {
	mu       sync.Mutex
	handlers map[string][]string
}

var models = pathlab.Models()

// of returns the handler that each model runs for a target, in the order of models.
func (m *modelled) of(target string) []string {
	m.mu.Lock()
	handlers := m.handlers[target]
	m.mu.Unlock()
	if handlers != nil {
		return handlers
	}
	handlers = make([]string, len(models))
	for i := range models {
		if route, ok := models[i].Route(target, "GET"); ok {
			handlers[i] = pathlab.Handler(route)
		}
	}
	m.mu.Lock()
	m.handlers[target] = handlers
	m.mu.Unlock()
	return handlers
}

// breaches returns descriptions of the requests for which a model runs a closed route of the site.
func (m *modelled) breaches(s labSite, arrivals []arrival) map[labBreach][]string {
	out := make(map[labBreach][]string)
	for _, a := range arrivals {
		if !a.reached {
			continue
		}
		for i, handler := range m.of(a.target) {
			if handler != "" && s.closed(handler, a) && !slices.Contains(s.but, models[i].Name) {
				at := labBreach{s.name, models[i].Name}
				out[at] = append(out[at], a.ran(handler))
			}
		}
	}
	return out
}

// ran describes a request that ran a closed route.
func (a *arrival) ran(handler string) string {
	return fmt.Sprintf("%.120q arrived as %.120q and ran %q, cost %d", a.sent, a.target, handler, a.cost)
}

// report fails the test with the requests that ran closed routes.
func report(t *testing.T, breaches map[labBreach][]string) {
	t.Helper()
	for _, at := range slices.SortedFunc(maps.Keys(breaches), func(a, b labBreach) int {
		return strings.Compare(a.site+a.model, b.site+b.model)
	}) {
		all := breaches[at]
		t.Errorf("%s, %s: %d requests reached a route that was closed to them:\n\t%s", at.site, at.model, len(all), strings.Join(all[:min(len(all), 8)], "\n\t"))
	}
}
