package caddymodule

import (
	"context"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/tracing"
	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Caddy's tracing directive runs before all others, and writes the path, the host and some headers of a
// request into its span as they arrived. All its spans come from one provider, which calls spanCleaner for each.

// spanCleaner takes keys out of spans as they start, of requests that meet no keygate directive too. What is
// added when a request ends, span_attributes, it does not see: cleanTraces warns of those.
type spanCleaner struct{}

// OnStart implements sdktrace.SpanProcessor.
func (spanCleaner) OnStart(_ context.Context, span sdktrace.ReadWriteSpan) {
	s := known.secrets()
	if name := span.Name(); s.uri(name) != name {
		span.SetName(s.uri(name))
	}
	for _, a := range span.Attributes() {
		if a.Value.Type() != attribute.STRING {
			continue
		}
		text := a.Value.AsString()
		if clean := s.uri(text); clean != text {
			span.SetAttributes(attribute.String(string(a.Key), clean))
		}
	}
}

// OnEnd implements sdktrace.SpanProcessor.
func (spanCleaner) OnEnd(sdktrace.ReadOnlySpan) {}

// Shutdown implements sdktrace.SpanProcessor.
func (spanCleaner) Shutdown(context.Context) error { return nil }

// ForceFlush implements sdktrace.SpanProcessor.
func (spanCleaner) ForceFlush(context.Context) error { return nil }

// cleanedProvider is the provider that calls a spanCleaner. Caddy has one, until no configuration traces.
var cleanedProvider struct {
	sync.Mutex
	provider trace.TracerProvider
}

// cleanTraces keeps keys out of the spans of every tracing handler of the configuration, and warns where it can't.
func (a *App) cleanTraces() {
	found := false
	for h := range routedHandlers(configuredHTTP(a.ctx)) {
		t, ok := h.handler.(*tracing.Tracing)
		if !ok {
			continue
		}
		if !found {
			found = true
			if !cleanSpans(t) {
				a.log.Warn("spans of the tracing directive may hold API keys, because this version of Caddy traces in another way: remove the directive",
					"site", h.site())
			}
		}
		if names := leakingAttributes(t.SpanAttributes); len(names) > 0 {
			a.log.Warn("span_attributes of the tracing directive write a part of the request, which may hold an API key: remove these lines, or use {keygate.key_id}",
				"site", h.site(), "attributes", names)
		}
	}
}

// cleanSpans has the provider of t's spans call a spanCleaner, and reports whether it does.
func cleanSpans(t *tracing.Tracing) bool {
	provider := providerOf(t)
	registry, ok := provider.(interface {
		RegisterSpanProcessor(sdktrace.SpanProcessor)
	})
	if !ok {
		return false
	}
	cleanedProvider.Lock()
	defer cleanedProvider.Unlock()
	if cleanedProvider.provider != provider {
		registry.RegisterSpanProcessor(spanCleaner{})
		cleanedProvider.provider = provider
	}
	return true
}

// providerOf returns the provider of t's spans, by sending a request through it that its caller has not
// sampled: by default no span of it is exported.
func providerOf(t *tracing.Tracing) (provider trace.TracerProvider) {
	ctx := context.WithValue(context.Background(), caddy.ReplacerCtxKey, caddy.NewReplacer())
	ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, map[string]any{})
	r := (&http.Request{
		Method: http.MethodGet, URL: &url.URL{Path: "/"}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Body: http.NoBody,
		Header: http.Header{"Traceparent": {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"}},
	}).WithContext(ctx)
	_ = t.ServeHTTP(noResponse{}, r, caddyhttp.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
		provider = trace.SpanFromContext(r.Context()).TracerProvider()
		return nil
	}))
	return provider
}

// noResponse is a response that is written nowhere.
type noResponse struct{}

func (noResponse) Header() http.Header         { return http.Header{} }
func (noResponse) Write(p []byte) (int, error) { return len(p), nil }
func (noResponse) WriteHeader(int)             {}

// requestPart matches placeholders for a part of the request or the response that may hold what a client wrote.
var requestPart = regexp.MustCompile(`\{http\.(request\.(uri|orig_uri|header|cookie|body|host|tls\.server_name)|response\.header|regexp|matchers|error\.message)\b`)

// leakingAttributes returns the names, sorted, of the attributes that may hold a key.
func leakingAttributes(attributes map[string]string) []string {
	var names []string
	for name, value := range attributes {
		if requestPart.MatchString(value) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
