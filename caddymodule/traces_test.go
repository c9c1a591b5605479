package caddymodule

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/auth"
)

// No span holds a key, wherever the client puts the key in its request, even if the request
// reaches no keygate directive.
func TestSpansHoldNoKeys(t *testing.T) {
	var mu sync.Mutex
	var spans bytes.Buffer
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = io.Copy(&spans, r.Body)
	}))
	defer collector.Close()
	t.Setenv("OTEL_TRACES_EXPORTER", "otlp")
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
	t.Setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	s := newTestSite(t, siteConfig("", `tracing {
		span "span of {uri}"
	}
	handle /plain/* {
		respond ok
	}
	handle {
		keygate {
			public /public/*
		}
		respond ok
	}`), nil)
	var token string
	issued, err := auth.New(s.manager).CreateToken(t.Context(), management.Actor{Name: "test", Via: "cli"}, "", auth.TokenFields{
		Name: management.Some("ci"), Scopes: management.Some([]string{"*"}),
	})
	if err != nil {
		t.Fatal(err)
	}
	token = issued.Token
	for _, path := range []string{"/plain/", "/public/", "/checked/"} {
		for _, secret := range []string{s.key, token, strings.ReplaceAll(s.key, "_", "%5F")} {
			s.get("GET", path+secret+"?k="+secret, "User-Agent", "sdk "+secret, "X-Forwarded-For", secret, "X-API-Key", s.key)
		}
	}
	stop(t) // The exporter writes the spans when no configuration uses tracing any longer.
	mu.Lock()
	defer mu.Unlock()
	sent := spans.String()
	if strings.Count(sent, "user_agent.original") != 9 || !strings.Contains(sent, "span of /plain/kg_live_") {
		t.Fatalf("the spans are %q", sent)
	}
	for _, secret := range []string{s.key[12:], token[12:]} {
		if strings.Contains(sent, secret) {
			t.Errorf("a span holds a secret: %q", sent)
		}
	}
}
