package redact

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/keygate-dev/keygate/plugin/apikey"
)

func testSecrets() *Secrets {
	g, places := logGrammar()
	return newSecrets(apikey.NewCleaner(g), places.List())
}

func newSecrets(c *apikey.Cleaner, places []apikey.Place) *Secrets {
	s := NewSecrets(c, places)
	return &s
}

const shownKey = "kg_live_Zx81…"

func TestSecretsHeader(t *testing.T) {
	s := testSecrets()
	for _, tt := range []struct{ name, value, want string }{
		{"X-Api-Key", plantedKey, shownKey},
		{"X-Api-Key", "0123456789abcdef", "REDACTED"}, // The header is a place for keys, so its value is hidden even if it does not have the shape of a key.
		{"X-Api-Key", "", ""},
		{"Authorization", "Bearer " + plantedKey, "Bearer " + shownKey},
		{"Authorization", "bearer 0123", "bearer REDACTED"},
		{"Authorization", "Basic YTpi", "Basic YTpi"},
		{"Cookie", "a=b; session=xyz; c=" + plantedKey, "a=b; session=REDACTED; c=" + shownKey},
		{"Referer", "http://x/?k=" + plantedKey + "&l=1", "http://x/?k=" + shownKey + "&l=1"},
		{"X-Plain", "plain", "plain"},
	} {
		in := http.Header{tt.name: {tt.value, "second"}, "Other": {"o"}}
		out := s.requestHeader(in)
		if out[tt.name][0] != tt.want || out.Get("Other") != "o" {
			t.Errorf("%s: %q is %q, want %q", tt.name, tt.value, out[tt.name][0], tt.want)
		}
		if in[tt.name][0] != tt.value {
			t.Errorf("%s: the request itself was changed", tt.name)
		}
	}
	planted := http.CanonicalHeaderKey(plantedKey)
	if planted == plantedKey {
		t.Fatal("plantedKey must differ from its canonical form as a header name")
	}
	name := plantedKey // The name of the header is a key, as a client may send it.
	named := s.header(http.Header{name: {"v"}, "A": {"1"}})
	if _, ok := named[name]; ok || len(named) != 2 {
		t.Errorf("a key as a header's name stays: %v", named)
	}
}

func TestSecretsURI(t *testing.T) {
	s := testSecrets()
	for uri, want := range map[string]string{
		"/a?b=c":                          "/a?b=c",
		"/a/" + plantedKey + "/b":         "/a/" + shownKey + "/b",
		"/a?token=opaque&x=" + plantedKey: "/a?token=REDACTED&x=" + shownKey,
		"/a?tok%65n=opaque":               "/a?tok%65n=REDACTED",
		"/a?token=":                       "/a?token=",
		"*":                               "*",
	} {
		if got := s.uri(uri); got != want {
			t.Errorf("%s: %s, want %s", uri, got, want)
		}
	}
}

type stringer string

func (s stringer) String() string { return string(s) }

func TestSecretsField(t *testing.T) {
	s := testSecrets()
	for _, f := range []zap.Field{
		zap.String("k", plantedKey), zap.ByteString("k", []byte(plantedKey)), zap.Binary("k", []byte(plantedKey)),
		zap.Stringer("k", stringer(plantedKey)), zap.Error(errors.New(plantedKey)), zap.Strings("k", []string{"a", plantedKey}),
		zap.Any("k", map[string]any{"a": []string{plantedKey}}), zap.Any("k", http.Header{"A": {plantedKey}}),
		zap.Object("k", caddyhttp.LoggableHTTPHeader{Header: http.Header{"A": {plantedKey}}}),
		zap.Any("k", func() {}), zap.String(plantedKey, "v"),
	} {
		enc := zapcore.NewJSONEncoder(zapcore.EncoderConfig{})
		line, err := enc.EncodeEntry(zapcore.Entry{}, []zap.Field{s.field(f)})
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(line.String(), plantedKey[12:28]) {
			t.Errorf("type %d: %s", f.Type, line)
		}
	}
	for _, f := range []zap.Field{zap.Int("n", 1), zap.String("s", "x"), zap.Strings("l", []string{"a"})} {
		if got := s.field(f); !got.Equals(f) {
			t.Errorf("%v became %v", f, got)
		}
	}
}

func TestSecretsError(t *testing.T) {
	s := testSecrets()
	inner := fmt.Errorf("%s: %w", plantedKey, io.ErrUnexpectedEOF)
	for _, err := range []error{inner, caddyhttp.Error(502, inner), fmt.Errorf("around: %w", caddyhttp.Error(502, inner))} {
		safe := s.err(err)
		if strings.Contains(safe.Error(), plantedKey) || !errors.Is(safe, io.ErrUnexpectedEOF) {
			t.Errorf("%v", safe)
		}
		status, message, _ := errorValues(safe)
		if he, ok := errors.AsType[caddyhttp.HandlerError](err); ok && status != he.StatusCode || strings.Contains(message, plantedKey) {
			t.Errorf("%d %s", status, message)
		}
	}
	if err := io.EOF; s.err(err) != err {
		t.Error("an error without keys was replaced")
	}
}

// logCheck is an app that records the result of LeakingLogs at its start.
type logCheck struct{ ctx caddy.Context }

var logCheckSaid []string

func init() { caddy.RegisterModule(&logCheck{}) }

func (*logCheck) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "logcheck", New: func() caddy.Module { return new(logCheck) }}
}
func (c *logCheck) Provision(ctx caddy.Context) error { c.ctx = ctx; return nil }
func (c *logCheck) Start() error                      { logCheckSaid = LeakingLogs(c.ctx); return nil }
func (c *logCheck) Stop() error                       { return nil }

func TestLeakingLoggers(t *testing.T) {
	dir := t.TempDir()
	out := func(name string) string { return "output file " + filepath.Join(dir, name) }
	config := `{
		admin off
		persist_config off
		log default {
			` + out("a") + `
		}
		log filtered {
			` + out("b") + `
			format filter {
				request>headers>X-Api-Key delete
			}
		}
		log replaced {
			` + out("c") + `
			format filter {
				wrap console
				request>headers>X-Api-Key replace gone
			}
		}
		log hashed {
			` + out("d") + `
			format filter {
				request>headers>X-Api-Key hash
			}
		}
		log dropped {
			` + out("e") + `
			format filter {
				request>headers delete
			}
		}
		log other-field {
			` + out("f") + `
			format filter {
				request>headers>X-Api-Key2 delete
			}
		}
		log elsewhere {
			` + out("g") + `
			include admin.api
		}
		log nowhere {
			output discard
		}
		log site {
			` + out("h") + `
			include http.log.access.log7
		}
		log handlers {
			` + out("i") + `
			exclude http.log
		}
	}
	`
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), nil)
	if err != nil {
		t.Fatal(err)
	}
	adapted = []byte(strings.Replace(string(adapted), `{`, `{"apps":{"logcheck":{}},`, 1))
	if err := caddy.Load(adapted, true); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Stop(); err != nil {
		t.Error(err)
	}
	if want := []string{"default", "other-field", "site"}; !slices.Equal(logCheckSaid, want) {
		t.Errorf("leaking: %q, want %q", logCheckSaid, want)
	}
	for _, f := range []string{"b", "c", "d", "e", "f", "g", "h", "i"} {
		if b, err := os.ReadFile(filepath.Join(dir, f)); err == nil && strings.Contains(string(b), "X-Api-Key") {
			t.Errorf("the check wrote to a log: %s", b)
		}
	}
}

// BenchmarkAccessLog measures the cost of a directive's RequestLog if the server has no access
// log.
func BenchmarkAccessLog(b *testing.B) {
	g, places := logGrammar()
	logs := &Logs{access: namedLogger{Logger: zap.NewNop()}, errors: namedLogger{Logger: zap.NewNop()}, secrets: NewSecrets(apikey.NewCleaner(g), places.List())}
	for _, bm := range []struct {
		name   string
		server *caddyhttp.Server
	}{
		{"off", new(caddyhttp.Server)},
		{"on", &caddyhttp.Server{Logs: new(caddyhttp.ServerLogConfig)}},
	} {
		b.Run(bm.name, func(b *testing.B) {
			w := httptest.NewRecorder()
			req := httptest.NewRequest("GET", "/v1/x?a=b", nil)
			req.Header.Set("X-Api-Key", plantedKey)
			req.Header.Set("User-Agent", "curl/8")
			r := caddyhttp.PrepareRequest(req, caddy.NewReplacer(), w, bm.server)
			b.ReportAllocs()
			for b.Loop() {
				caddyhttp.SetVar(r.Context(), requestLogVar, nil)
				caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, nil)
				r.Body = http.NoBody
				log := Begin(logs, r)
				log.End(w)
			}
		})
	}
}

// The logged header shows the header as it arrived, without keys, whatever handlers change later.
func TestLoggedHeader(t *testing.T) {
	h := http.Header{
		"Authorization": {"Bearer " + plantedKey}, "Cookie": {"session=abc", "c=" + plantedKey},
		"X-Api-Key": {plantedKey, "0123456789abcdef"}, "X-Plain": {"a", "b"}, plantedKey: {"v"}, "X-None": {},
	}
	plain := map[string][]string{"X-Plain": {"a", "b"}, "X-Api-Key": {shownKey, "REDACTED"}, shownKey: {"v"}, "X-None": {}}
	for credentials, want := range map[bool]map[string][]string{
		false: {"Authorization": {"REDACTED"}, "Cookie": {"REDACTED"}},
		true:  {"Authorization": {"Bearer " + shownKey}, "Cookie": {"session=REDACTED", "c=" + shownKey}},
	} {
		in := h.Clone()
		logged := newLoggedHeader(in, credentials, testSecrets())
		for _, values := range in {
			for i := range values {
				values[i] = "changed"
			}
		}
		maps.Copy(want, plain)
		got := map[string][]string{}
		for _, f := range logged.fields {
			got[f.name] = f.values
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("credentials %v: %q, want %q", credentials, got, want)
		}
	}
	if redactedValues[0] != "REDACTED" {
		t.Errorf("the text in place of credentials is now %q", redactedValues)
	}
}
