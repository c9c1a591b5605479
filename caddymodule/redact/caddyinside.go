package redact

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/keygate-dev/keygate/plugin/apikey"
)

// This file holds all code that depends on Caddy's internals: three private fields that have no
// public accessor. A gateway may be built with another version of Caddy, so CheckCaddy verifies
// the fields before the gateway starts.

// field is a private field of a struct in Caddy.
type field struct {
	in   reflect.Type // in is the struct that holds the field.
	name string
	is   reflect.Type

	// found and offset are set by find.
	found  bool
	offset uintptr
}

var (
	// extraFieldsField holds the fields that handlers add to an access log line.
	extraFieldsField = find(field{in: reflect.TypeFor[caddyhttp.ExtraLogFields](), name: "fields", is: reflect.TypeFor[[]zap.Field]()})
	// configField holds the configuration of a context, with its logs by name.
	configField = find(field{in: reflect.TypeFor[caddy.Context](), name: "cfg", is: reflect.TypeFor[*caddy.Config]()})
	// trustedProxiesField holds a server's loaded module trusted_proxies.
	trustedProxiesField = find(field{in: reflect.TypeFor[caddyhttp.Server](), name: "trustedProxies", is: reflect.TypeFor[caddyhttp.IPRangeSource]()})
)

// find returns f with found and offset set, if f.in has a field with f's name and type.
func find(f field) field {
	found, ok := f.in.FieldByName(f.name)
	f.found, f.offset = ok && found.Type == f.is, found.Offset
	return f
}

// get returns the value of the field in the struct at p, or the zero value if the struct has no
// such field.
func get[T any](f *field, p unsafe.Pointer) (value T) {
	if !f.found || f.is != reflect.TypeFor[T]() {
		return value
	}
	return *(*T)(unsafe.Add(p, f.offset))
}

// extraFields returns the fields that handlers have added to the access log line.
func extraFields(extra *caddyhttp.ExtraLogFields) []zap.Field {
	if extra == nil {
		return nil
	}
	return get[[]zap.Field](&extraFieldsField, unsafe.Pointer(extra))
}

// configuredLogs returns the logs by name in the configuration of ctx. The caller must not change
// them.
func configuredLogs(ctx caddy.Context) map[string]*caddy.CustomLog {
	config := get[*caddy.Config](&configField, unsafe.Pointer(&ctx))
	if config == nil || config.Logging == nil {
		return nil
	}
	return config.Logging.Logs
}

// TrustedProxies returns the loaded module trusted_proxies of a provisioned server, or nil if the
// server has none.
func TrustedProxies(s *caddyhttp.Server) caddyhttp.IPRangeSource {
	return get[caddyhttp.IPRangeSource](&trustedProxiesField, unsafe.Pointer(s))
}

// bytesRead returns a pointer to the server's count of bytes read from body, including those of
// hijacked connections. It returns nil if body is not of the server's type, and RequestLog then
// counts the bytes itself. The type is private to Caddy, but its field Length is exported.
func bytesRead(body any) *int {
	t := reflect.TypeOf(body)
	known := lengthFields.Load()
	if known == nil || known.of != t {
		if t == nil || t.Kind() != reflect.Pointer || t.Elem().Kind() != reflect.Struct || t.Elem().PkgPath() != serverPkg {
			return nil
		}
		length, ok := t.Elem().FieldByName("Length")
		if !ok || len(length.Index) != 1 || length.Type != reflect.TypeFor[int]() {
			return nil
		}
		known = &lengthField{t, length.Index[0]}
		lengthFields.Store(known)
	}
	v := reflect.ValueOf(body)
	if v.IsNil() {
		return nil
	}
	length, _ := v.Elem().Field(known.index).Addr().Interface().(*int)
	return length
}

// lengthField is a type of request bodies and the index of its field Length.
type lengthField struct {
	of    reflect.Type
	index int
}

// lengthFields caches the lengthField of the last type. Caddy has only one such type.
var lengthFields atomic.Pointer[lengthField]

var serverPkg = reflect.TypeFor[caddyhttp.Server]().PkgPath()

// CheckCaddy returns an error if Caddy's internals differ from those that this package was tested
// with. The gateway must not start then: its logs could show keys, or warnings about such logs
// could be missing.
func CheckCaddy() error { return checked() }

var checked = sync.OnceValue(func() error {
	return checkCaddy(&extraFieldsField, &configField, &trustedProxiesField)
})

// checkCaddy verifies that Caddy has the fields, and that an access log line for a test request is
// correct.
func checkCaddy(fields ...*field) error {
	err := checkLine()
	for _, f := range fields {
		if !f.found {
			err = fmt.Errorf("%s has no field %s of type %s", f.in, f.name, f.is)
		}
	}
	if err == nil {
		return nil
	}
	version, _ := caddy.Version()
	return fmt.Errorf("Caddy %s differs inside from the version that this Keygate was tested with, so that API keys could appear in logs: "+
		"build Keygate with the version of Caddy in its go.mod (./xcaddy.sh does), or use a newer Keygate: %w", version, err)
}

// checkLine writes an access log line for a request that holds a key in several places. It
// verifies that Caddy would skip its own line, that Keygate's line shows a field which a handler
// added, and that the line shows no key.
func checkLine() error {
	grammar, err := apikey.NewGrammar(nil, apikey.Format{}, nil)
	if err != nil {
		return err
	}
	key := grammar.Shapes()[0].Prefix + strings.Repeat("A1b2", 10)
	var out bytes.Buffer
	logger := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(&out), zapcore.DebugLevel))
	logs := &Logs{
		access: namedLogger{Logger: logger}, errors: namedLogger{Logger: logger},
		secrets: NewSecrets(apikey.NewCleaner(grammar), nil).And(usualPlaces),
	}

	r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://localhost/?a="+key, http.NoBody)
	if err != nil {
		return err
	}
	r.RequestURI = r.URL.RequestURI()
	r.Header["X-Api-Key"], r.Header["X-Other"] = []string{probeText}, []string{key}
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), noResponse{}, &caddyhttp.Server{Logs: new(caddyhttp.ServerLogConfig)})
	log := Begin(logs, r)
	log.Add("keygate_probe", "added "+key)
	log.End(noResponse{})
	log.write()

	line := out.String()
	switch skip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.LogSkipVar).(bool); {
	case !skip:
		return errors.New("Caddy's own access log line is not skipped")
	case strings.Count(line, "\n") != 1:
		return fmt.Errorf("a request has %d access log lines, want 1", strings.Count(line, "\n"))
	case strings.Contains(line, key) || strings.Contains(line, probeText):
		return errors.New("an access log line shows a key")
	case !strings.Contains(line, `"keygate_probe":"added `):
		return errors.New("an access log line lacks the fields that handlers add")
	}
	return nil
}
