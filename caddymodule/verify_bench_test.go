package caddymodule

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/keygate-dev/keygate/caddymodule/config"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/auth"
)

// BenchmarkVerify measures a request to verify a key, with a management token, to a Caddy server:
// after its header was read and before the response is sent. For comparison it also measures a
// site that only has respond.
func BenchmarkVerify(b *testing.B) {
	dir := b.TempDir()
	port := strconv.Itoa(freePort(b))
	text := fmt.Sprintf(`{
		admin off
		persist_config off
		auto_https off
		log default {
			output file %s/default.log
			level WARN
		}
		keygate {
			store sqlite %s
			plan pro {
				rate 1000000000/s
				quota 1000000000000/month
			}
			default_plan pro
		}
	}
	http://api.test:%s {
		bind 127.0.0.1
		handle /v1/* {
			keygate_api
		}
		respond OK
	}
	`, dir, filepath.Join(dir, "keygate.db"), port)
	var server *caddyhttp.Server
	for _, s := range loadCaddyfile(b, text).Servers {
		server = s
	}
	app, err := caddy.ActiveContext().App(config.AppName)
	if err != nil {
		b.Fatal(err)
	}
	m, ctx, actor := app.(*App).engine.Manager(), context.Background(), management.Actor{Name: "bench", Via: "cli"}
	if _, err := m.CreateTenant(ctx, actor, "", "acme", management.TenantFields{}); err != nil {
		b.Fatal(err)
	}
	key, err := m.CreateKey(ctx, actor, "", "acme", management.KeyFields{Name: management.Some("ci")})
	if err != nil {
		b.Fatal(err)
	}
	token, err := auth.New(m).CreateToken(ctx, actor, "", auth.TokenFields{Name: management.Some("bench"), Scopes: management.Some([]string{"verify"})})
	if err != nil {
		b.Fatal(err)
	}
	body := `{"key":"` + key.Key + `","method":"GET","path":"/v1/things","ip":"192.0.2.7"}`
	for _, path := range []string{"/", "/v1/verify"} {
		b.Run(strings.TrimPrefix(path, "/v1"), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				ctx, cancel := context.WithCancel(context.Background())
				r := (&http.Request{
					Method: http.MethodPost, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Host: "api.test", RemoteAddr: "192.0.2.1:40000",
					URL: &url.URL{Path: path}, RequestURI: path, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
					Header: http.Header{"Authorization": {"Bearer " + token.Token}, "Content-Type": {"application/json"}},
				}).WithContext(ctx)
				w := &verifyWriter{header: make(http.Header)}
				server.ServeHTTP(w, r)
				cancel()
				if w.status != http.StatusOK {
					b.Fatalf("%s answered %d", path, w.status)
				}
			}
		})
	}
}

// verifyWriter is a ResponseWriter that costs almost nothing.
type verifyWriter struct {
	header http.Header
	status int
}

func (w *verifyWriter) Header() http.Header         { return w.header }
func (w *verifyWriter) Write(p []byte) (int, error) { return len(p), nil }
func (w *verifyWriter) WriteHeader(status int)      { w.status = status }
