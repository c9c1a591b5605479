package redact

import (
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// CheckCaddy finds each private field in the Caddy version of this build.
func TestCaddyInternals(t *testing.T) {
	if err := CheckCaddy(); err != nil {
		t.Error(err)
	}
	extra := new(caddyhttp.ExtraLogFields)
	extra.Add(zap.String("a", "b"))
	if f := extraFields(extra); len(f) != 1 || f[0].Key != "a" || f[0].String != "b" {
		t.Errorf("extra fields: %v", f)
	}
	if extraFields(nil) != nil {
		t.Error("extraFields(nil) is not nil")
	}
}

// otherFields imitates caddyhttp.ExtraLogFields in another version of Caddy.
type otherFields struct {
	//lint:ignore U1000 Reflection finds it.
	fields []string
}

// A gateway does not start if Caddy's private fields have another name or type.
func TestCheckCaddyFindsMissingField(t *testing.T) {
	fieldsType := reflect.TypeFor[[]zap.Field]()
	for name, f := range map[string]field{
		"renamed":         {in: reflect.TypeFor[caddyhttp.ExtraLogFields](), name: "extra", is: fieldsType},
		"of another type": {in: reflect.TypeFor[otherFields](), name: "fields", is: fieldsType},
		"another struct":  {in: reflect.TypeFor[caddy.Context](), name: "config", is: reflect.TypeFor[*caddy.Config]()},
	} {
		f = find(f)
		err := checkCaddy(&extraFieldsField, &f)
		if err == nil || !strings.Contains(err.Error(), "has no field "+f.name) || !strings.Contains(err.Error(), "go.mod") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A gateway does not start if a private field has the right name and type but other content: the
// line for the test request shows that.
func TestCheckCaddyFindsOtherContent(t *testing.T) {
	saved := extraFieldsField
	defer func() { extraFieldsField = saved }()
	extraFieldsField.found = false
	if err := checkCaddy(); err == nil || !strings.Contains(err.Error(), "lacks the fields") {
		t.Errorf("without the added fields: %v", err)
	}
	extraFieldsField = saved
	if err := checkCaddy(); err != nil {
		t.Error(err)
	}
}

func TestTrustedProxies(t *testing.T) {
	if p := TrustedProxies(new(caddyhttp.Server)); p != nil {
		t.Errorf("a server without trusted proxies has %v", p)
	}
}

func TestBytesReadOfOtherBodies(t *testing.T) {
	for _, body := range []any{nil, http.NoBody, new(int), (*requestBody)(nil), &requestBody{}} {
		if bytesRead(body) != nil {
			t.Errorf("%T is taken for the server's", body)
		}
	}
}

// bytesRead finds the server's own count, which includes the bytes of a hijacked connection.
func TestBytesRead(t *testing.T) {
	counted := -1
	g := startHarness(t, "on")
	defer g.stop(t)
	watch = func(r *http.Request) {
		body, ok := r.Body.(*requestBody)
		if !ok || body.server == nil {
			t.Errorf("the count in a %T is not found", r.Body)
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		counted = *body.server
	}
	defer func() { watch = nil }()
	if status, text := g.send(t, http.MethodPost, "site.test", "/ok", "counted", strings.NewReader("12345")); status != http.StatusOK {
		t.Fatal(status, text)
	}
	if counted != 5 {
		t.Errorf("%d bytes were counted, want 5", counted)
	}
}
