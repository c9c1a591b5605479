package caddymodule

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/caddymodule/config"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keygate-dev/keygate/plugin/management"
)

// benchSites are the sites that the benchmarks of the directive use. They differ only in the
// options that their names describe.
var benchSites = []struct{ name, options string }{
	{"plain", ""},
	{"plain, access log", "log {\n output keygate_bench\n}"},
	{"keygate", "keygate"},
	{"keygate, access log", "log {\n output keygate_bench\n}\nkeygate"},
}

// benchServers are the servers of a running Caddy and a key that they accept.
type benchServers struct {
	servers []*caddyhttp.Server // servers holds one server for each of benchSites, in the same order.
	key     string
}

// newBenchServers starts a Caddy with the sites. The plan has a limit of every kind. Usage and the
// last requests are recorded, as by default.
func newBenchServers(b *testing.B) *benchServers {
	b.Helper()
	dir := b.TempDir()
	text := `{
		admin off
		persist_config off
		auto_https off
		log default {
			output file ` + dir + `/default.log
			level WARN
		}
		keygate {
			store sqlite ` + filepath.Join(dir, "keygate.db") + `
			scopes admin > write > read
			plan pro {
				rate 1000000/s
				quota 1000000000/month
				concurrency 50
				scopes write
			}
			default_plan pro
		}
	}
	`
	var ports []string
	for _, site := range benchSites {
		port := strconv.Itoa(freePort(b))
		ports = append(ports, port)
		text += fmt.Sprintf("http://api.test:%s {\nbind 127.0.0.1\n%s\nheader Content-Type application/json\nrespond `{\"ok\":true}`\n}\n",
			port, site.options)
	}
	app := loadCaddyfile(b, text)
	s := new(benchServers)
	for _, port := range ports {
		for _, server := range app.Servers {
			if strings.HasSuffix(server.Listen[0], ":"+port) {
				s.servers = append(s.servers, server)
			}
		}
	}
	e, err := caddy.ActiveContext().App(config.AppName)
	if err != nil {
		b.Fatal(err)
	}
	m, ctx, actor := e.(*App).engine.Manager(), context.Background(), management.Actor{Name: "bench", Via: "cli"}
	if _, err := m.CreateTenant(ctx, actor, "", "acme", management.TenantFields{}); err != nil {
		b.Fatal(err)
	}
	key, err := m.CreateKey(ctx, actor, "", "acme", management.KeyFields{Name: management.Some("ci"), Scopes: management.Some([]string{"write"})})
	if err != nil {
		b.Fatal(err)
	}
	s.key = key.Key
	return s
}

func init() { caddy.RegisterModule(benchLog{}) }

// benchLog discards access log lines at no cost.
type benchLog struct{}

func (benchLog) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.logging.writers.keygate_bench", New: func() caddy.Module { return new(benchLog) }}
}

func (benchLog) UnmarshalCaddyfile(*caddyfile.Dispenser) error { return nil }
func (benchLog) String() string                                { return "bench" }
func (benchLog) WriterKey() string                             { return "bench" }

func (benchLog) OpenWriter() (io.WriteCloser, error) { return benchLog{}, nil }

func (benchLog) Write(p []byte) (int, error) { return len(p), nil }
func (benchLog) Close() error                { return nil }

// benchWriter is a ResponseWriter that costs almost nothing.
type benchWriter struct {
	header http.Header
	status int
}

func (w *benchWriter) Header() http.Header             { return w.header }
func (w *benchWriter) Write(p []byte) (int, error)     { return len(p), nil }
func (w *benchWriter) WriteHeader(status int)          { w.status = status }
func (w *benchWriter) Flush()                          {}
func (w *benchWriter) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline is called through http.ResponseController.
func (w *benchWriter) SetWriteDeadline(time.Time) error { return nil }

// serve sends one request as net/http does: with its own header, and with its own context that is
// canceled when the request has ended.
func (s *benchServers) serve(b *testing.B, site int) {
	ctx, cancel := context.WithCancel(context.Background())
	r := (&http.Request{
		Method: http.MethodGet, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Host: "api.test", RemoteAddr: "192.0.2.1:40000",
		URL: &url.URL{Path: "/v1/things", RawQuery: "limit=20"}, RequestURI: "/v1/things?limit=20", Body: http.NoBody,
		Header: http.Header{
			"Accept":          {"application/json"},
			"Accept-Encoding": {"gzip, deflate, br"},
			"Accept-Language": {"en-GB,en;q=0.9"},
			"Authorization":   {"Bearer " + s.key},
			"Connection":      {"keep-alive"},
			"Traceparent":     {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
			"User-Agent":      {"acme-sdk/2.31.0 (linux; x86_64) Python/3.12.4"},
			"X-Request-Id":    {"0193a1c2-7f5e-7b3a-9c41-2f6b0e8d5a17"},
		},
	}).WithContext(ctx)
	w := &benchWriter{header: make(http.Header)}
	s.servers[site].ServeHTTP(w, r)
	cancel()
	if w.status != http.StatusOK {
		b.Fatalf("%s: answered %d", benchSites[site].name, w.status)
	}
}

// BenchmarkHandler measures a request to a Caddy server, after it was read and before the response
// is sent. The directive's cost is the difference to the plain site. With access logs, compare the
// two sites that log, because the directive's line replaces Caddy's.
func BenchmarkHandler(b *testing.B) {
	s := newBenchServers(b)
	for i, site := range benchSites {
		b.Run(site.name, func(b *testing.B) {
			b.ReportAllocs()
			before := cpuTime(b)
			for b.Loop() {
				s.serve(b, i)
			}
			b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N)/1e3, "cpu-µs/op")
		})
	}
}

// BenchmarkHandlerAdds measures the differences between the sites of BenchmarkHandler. The sites
// take turns within one run, so that other load on the machine affects all alike, and the median
// of all rounds counts. The processor time is that of the whole process, with garbage collection
// and background writes.
func BenchmarkHandlerAdds(b *testing.B) {
	const turn = 1000
	s := newBenchServers(b)
	for i := range benchSites {
		s.serve(b, i) // The first request of each site loads the key into memory.
	}
	var plain, plainLog, adds, addsLog []float64
	for b.Loop() {
		var spent [4]float64
		for i := range benchSites {
			runtime.GC() // collect the garbage of the previous turn now
			before := cpuTime(b)
			for range turn {
				s.serve(b, i)
			}
			spent[i] = float64(cpuTime(b)-before) / turn / 1e3
		}
		plain, plainLog = append(plain, spent[0]), append(plainLog, spent[1])
		adds, addsLog = append(adds, spent[2]-spent[0]), append(addsLog, spent[3]-spent[1])
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(plain), "plain-µs")
	b.ReportMetric(median(plainLog), "plain+log-µs")
	b.ReportMetric(median(adds), "keygate-adds-µs")
	b.ReportMetric(median(addsLog), "keygate+log-adds-µs")
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// cpuTime returns the processor time that the process has used so far.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// loadCaddyfile runs a configuration in this process until the benchmark ends, and returns its
// HTTP app.
func loadCaddyfile(b testing.TB, text string) *caddyhttp.App {
	b.Helper()
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), nil)
	if err != nil {
		b.Fatal(err)
	}
	if err := caddy.Load(adapted, true); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			b.Error(err)
		}
	})
	app, err := caddy.ActiveContext().App("http")
	if err != nil {
		b.Fatal(err)
	}
	return app.(*caddyhttp.App)
}
