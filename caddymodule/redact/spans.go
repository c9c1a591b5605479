package redact

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

// Caddy's tracing directive runs before all other directives. It writes the path, the host and some headers of a request, as
// they arrived, into a span. All spans come from one provider, which calls spanCleaner for each span.

// spanCleaner removes keys from spans when they start, also for requests that reach no keygate
// directive. It does not see span_attributes, which are added when a request ends:
// LeakingAttributes finds those.
type spanCleaner struct{}

// OnStart removes keys from the span's name and attributes.
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

func (spanCleaner) OnEnd(sdktrace.ReadOnlySpan) {}

func (spanCleaner) Shutdown(context.Context) error { return nil }

func (spanCleaner) ForceFlush(context.Context) error { return nil }

// cleanedProvider is the provider that has a spanCleaner. Caddy keeps one provider as long as a
// configuration uses tracing.
var cleanedProvider struct {
	sync.Mutex
	provider trace.TracerProvider
}

// CleanSpans removes keys from the spans of t. It reports whether this version of Caddy allows
// that.
func CleanSpans(t *tracing.Tracing) bool {
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

// providerOf returns the provider of t's spans. It sends a request through t that is marked as not
// sampled, so that by default its span is not exported.
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

// noResponse discards a response.
type noResponse struct{}

func (noResponse) Header() http.Header         { return http.Header{} }
func (noResponse) Write(p []byte) (int, error) { return len(p), nil }
func (noResponse) WriteHeader(int)             {}

// requestPart matches placeholders for parts of a request or response in which a client may put a
// key.
var requestPart = regexp.MustCompile(`\{http\.(request\.(uri|orig_uri|header|cookie|body|host|tls\.server_name)|response\.header|regexp|matchers|error\.message)\b`)

// LeakingAttributes returns the sorted names of the span_attributes that may hold a key.
func LeakingAttributes(attributes map[string]string) []string {
	var names []string
	for name, value := range attributes {
		if requestPart.MatchString(value) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
