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

// This file holds all that Keygate knows about the inside of Caddy: three private fields, for which Caddy has no public
// way. CheckCaddy verifies them before a gateway starts, since it may be built with another version of Caddy.

// field is a private field of a struct of Caddy.
type field struct {
	in   reflect.Type // the struct
	name string
	is   reflect.Type

	// found and offset are set by find.
	found  bool
	offset uintptr
}

var (
	// extraFieldsField holds the fields that handlers add to an access line.
	extraFieldsField = find(field{in: reflect.TypeFor[caddyhttp.ExtraLogFields](), name: "fields", is: reflect.TypeFor[[]zap.Field]()})
	// configField holds the configuration that a context belongs to, and with it the logs by name.
	configField = find(field{in: reflect.TypeFor[caddy.Context](), name: "cfg", is: reflect.TypeFor[*caddy.Config]()})
	// trustedProxiesField holds the loaded module trusted_proxies of a server.
	trustedProxiesField = find(field{in: reflect.TypeFor[caddyhttp.Server](), name: "trustedProxies", is: reflect.TypeFor[caddyhttp.IPRangeSource]()})
)

// find looks for f in its struct.
func find(f field) field {
	found, ok := f.in.FieldByName(f.name)
	f.found, f.offset = ok && found.Type == f.is, found.Offset
	return f
}

// get returns the field of the struct at p, the zero value where the struct has no such field.
func get[T any](f *field, p unsafe.Pointer) (value T) {
	if !f.found || f.is != reflect.TypeFor[T]() {
		return value
	}
	return *(*T)(unsafe.Add(p, f.offset))
}

// extraFields returns the fields that handlers have added to the access line.
func extraFields(extra *caddyhttp.ExtraLogFields) []zap.Field {
	if extra == nil {
		return nil
	}
	return get[[]zap.Field](&extraFieldsField, unsafe.Pointer(extra))
}

// configuredLogs returns the logs by name of the configuration that ctx belongs to. The caller must not change them.
func configuredLogs(ctx caddy.Context) map[string]*caddy.CustomLog {
	config := get[*caddy.Config](&configField, unsafe.Pointer(&ctx))
	if config == nil || config.Logging == nil {
		return nil
	}
	return config.Logging.Logs
}

// TrustedProxies returns the loaded trusted_proxies of a provisioned server, nil where it has none.
func TrustedProxies(s *caddyhttp.Server) caddyhttp.IPRangeSource {
	return get[caddyhttp.IPRangeSource](&trustedProxiesField, unsafe.Pointer(s))
}

// bytesRead returns where the server counts the bytes that it reads of a body, those of hijacked connections included.
// It is nil where body is not the server's: RequestLog then counts by itself. The type of body is private to
// Caddy, its field Length is not.
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

// lengthField is the index of the field in which bodies of a type count.
type lengthField struct {
	of    reflect.Type
	index int
}

// lengthFields is the one of the type that was seen last: Caddy has one.
var lengthFields atomic.Pointer[lengthField]

var serverPkg = reflect.TypeFor[caddyhttp.Server]().PkgPath()

// CheckCaddy returns an error where the inside of this Caddy is not the one that this package was tested with: keys could
// then stand in logs, or the warnings of such logs be missing. The gateway must not start.
func CheckCaddy() error { return checked() }

var checked = sync.OnceValue(func() error {
	return checkCaddy(&extraFieldsField, &configField, &trustedProxiesField)
})

// checkCaddy verifies that Caddy has the fields, and that a line with a probe in it is written as it should be.
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
	return fmt.Errorf("the inside of Caddy %s is not the one that this Keygate was tested with, so that API keys could be written to logs: "+
		"build Keygate with the version of Caddy in its go.mod (./xcaddy.sh does), or use a newer Keygate: %w", version, err)
}

// checkLine writes an access line for a request that holds a key in several places, and verifies that Caddy would skip
// its own, that the line shows what a handler adds, and that it shows no key.
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
		return errors.New("the access line of Caddy is not skipped")
	case strings.Count(line, "\n") != 1:
		return fmt.Errorf("a request has %d access lines", strings.Count(line, "\n"))
	case strings.Contains(line, key) || strings.Contains(line, probeText):
		return errors.New("an access line shows a key")
	case !strings.Contains(line, `"keygate_probe":"added `):
		return errors.New("an access line lacks the fields that handlers add")
	}
	return nil
}
