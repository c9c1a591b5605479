package caddymodule

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/plugin/gateway"
)

// shipped returns the shipped configurations by file name.
func shipped(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("../configs/*.Caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]string)
	for _, file := range append(files, "../Caddyfile.example") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		out[filepath.Base(file)] = string(text)
	}
	return out
}

// appIn returns the keygate app of a Caddyfile.
func appIn(t *testing.T, caddyfile string) *config.Config {
	t.Helper()
	out, err := adapt(caddyfile)
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Apps struct {
			Keygate *config.Config `json:"keygate"`
		} `json:"apps"`
	}
	if err := json.Unmarshal([]byte(out), &config); err != nil {
		t.Fatal(err)
	}
	return config.Apps.Keygate
}

// Every shipped configuration is valid unchanged, and reads the variables KEYGATE_LISTEN,
// KEYGATE_UPSTREAM, KEYGATE_ADMIN and KEYGATE_DB.
func TestShippedConfigurations(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(filepath.Join("..", "configs"))
	files := shipped(t)
	if len(files) < 7 {
		t.Fatalf("only %d files", len(files))
	}
	for name, text := range files {
		t.Run(name, func(t *testing.T) {
			out, err := adapt(text)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{`"localhost:2019"`, `":8080"`, `"localhost:9000"`, `"keygate.db"`} {
				if !strings.Contains(out, want) {
					t.Errorf("by default the file does not say %s", want)
				}
			}
			for name, value := range map[string]string{
				"KEYGATE_LISTEN": "http://127.0.0.1:18081", "KEYGATE_UPSTREAM": "127.0.0.1:19001",
				"KEYGATE_ADMIN": "127.0.0.1:12020", "KEYGATE_DB": filepath.Join(dir, "a.db"),
			} {
				t.Setenv(name, value)
			}
			if out, err = adapt(text); err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{`":18081"`, `"127.0.0.1:19001"`, `"127.0.0.1:12020"`, filepath.Join(dir, "a.db")} {
				if !strings.Contains(out, want) {
					t.Errorf("with its variables set the file does not say %s", want)
				}
			}
			if err := caddy.Validate(mustConfig(t, []byte(out))); err != nil {
				t.Error(err)
			}
		})
	}
}

var products = []string{"convilyn", "convoy", "vilvik", "converra", "knouds"}

// TestAllFiveMatchesProducts checks that the configuration that serves all five products has the same keyspaces and handlers
// as the configurations of the single products.
func TestAllFiveMatchesProducts(t *testing.T) {
	t.Chdir(filepath.Join("..", "configs"))
	files := shipped(t)
	all := appIn(t, files["all-five.Caddyfile"]).Keyspaces
	if len(all) != len(products) {
		t.Errorf("%d keyspaces", len(all))
	}
	handlers := make(map[string]any)
	handlersIn(t, files["all-five.Caddyfile"], handlers)
	for _, name := range products {
		own := appIn(t, files[name+".Caddyfile"]).Keyspaces
		if len(own) != 1 || !reflect.DeepEqual(own[name], all[name]) || own[name] == nil {
			t.Errorf("%s: the keyspace differs", name)
		}
		alone := make(map[string]any)
		handlersIn(t, files[name+".Caddyfile"], alone)
		if alone[name] == nil || !reflect.DeepEqual(alone[name], handlers[name]) {
			t.Errorf("%s: the directive is %v, and %v among all five", name, alone[name], handlers[name])
		}
	}
}

// handlersIn adds a Caddyfile's keygate handlers to into, by keyspace.
func handlersIn(t *testing.T, caddyfile string, into map[string]any) {
	t.Helper()
	out, err := adapt(caddyfile)
	if err != nil {
		t.Fatal(err)
	}
	var config any
	if err := json.Unmarshal([]byte(out), &config); err != nil {
		t.Fatal(err)
	}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, e := range v {
				walk(e)
			}
		case map[string]any:
			if v["handler"] == "keygate" {
				into[v["keyspace"].(string)] = v
			}
			for _, e := range v {
				walk(e)
			}
		}
	}
	walk(config)
}

// The messages of each product's rejections are those that the product documents.
func TestProductsMessages(t *testing.T) {
	t.Chdir(filepath.Join("..", "configs"))
	files := shipped(t)
	for _, tt := range []struct {
		product string
		reason  gateway.Reason
		body    string
	}{
		{"convoy", gateway.MissingKey, `{"detail":"API key required. Include X-API-Key header."}`},
		{"convoy", gateway.MalformedKey, `{"detail":"Invalid API key format."}`},
		{"convoy", gateway.InvalidKey, `{"detail":"Invalid API key."}`},
		{"convoy", gateway.RevokedKey, `{"detail":"Invalid API key."}`},
		{"convoy", gateway.DisabledKey, `{"detail":"Invalid API key."}`},
		{"convoy", gateway.ExpiredKey, `{"detail":"API key has expired."}`},
		{"convoy", gateway.TenantInactive, `{"detail":"Project is inactive."}`},
		{"converra", gateway.MissingKey, `{"error":{"code":"UNAUTHORIZED","message":"Authorization header required"}}`},
		{"converra", gateway.InvalidKey, `{"error":{"code":"UNAUTHORIZED","message":"Invalid API key"}}`},
		{"converra", gateway.MalformedKey, `{"error":{"code":"UNAUTHORIZED","message":"Invalid API key"}}`},
		{"converra", gateway.RevokedKey, `{"error":{"code":"UNAUTHORIZED","message":"Invalid API key"}}`},
		{"converra", gateway.DisabledKey, `{"error":{"code":"UNAUTHORIZED","message":"Invalid API key"}}`},
		{"converra", gateway.ExpiredKey, `{"error":{"code":"UNAUTHORIZED","message":"API key has expired"}}`},
	} {
		ks, err := appIn(t, files[tt.product+".Caddyfile"]).Keyspaces[tt.product].Compile(tt.product)
		if err != nil {
			t.Fatal(err)
		}
		if _, body := refusalsOf(ks).body(&refusal{reason: tt.reason}); string(body) != tt.body {
			t.Errorf("%s %s: %s, want %s", tt.product, tt.reason, body, tt.body)
		}
	}
}
