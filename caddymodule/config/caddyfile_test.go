package config_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	_ "github.com/keygate-dev/keygate/caddymodule"
	"github.com/keygate-dev/keygate/caddymodule/config"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

var update = flag.Bool("update", false, "rewrite the expected results in testdata")

const separator = "\n----------\n"

// adapt converts a Caddyfile to indented JSON.
func adapt(caddyfile string) (string, error) {
	out, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, out, "", "\t"); err != nil {
		return "", err
	}
	return b.String(), nil
}

// Every Caddyfile in testdata adapts to the expected JSON or fails with the expected error. A test
// file holds a Caddyfile, a line of dashes, and the JSON or "error: " with the message.
func TestCaddyfile(t *testing.T) {
	files, err := filepath.Glob("testdata/*.caddyfiletest")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test data: %v", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".caddyfiletest")
		t.Run(name, func(t *testing.T) {
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			in, want, ok := strings.Cut(string(content), separator)
			if !ok && !*update {
				t.Fatal("the file has no line of dashes")
			}
			got, err := adapt(in)
			if err != nil {
				got = "error: " + err.Error()
			}
			if *update {
				if err := os.WriteFile(file, []byte(in+separator+got+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if strings.TrimSpace(got) != strings.TrimSpace(want) {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
			isError := strings.HasPrefix(want, "error: ")
			if isError != strings.HasPrefix(name, "error_") {
				t.Error("files whose names begin with error_, and only those, expect errors")
			}
			if isError && !strings.Contains(want, "at Caddyfile:") {
				t.Error("the error names no file and line")
			}
		})
	}
}

// Every Caddyfile that adapts yields JSON that the same structs can read and that passes the
// checks of a JSON configuration.
func FuzzCaddyfile(f *testing.F) {
	files, err := filepath.Glob("testdata/*.caddyfiletest")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		in, _, _ := strings.Cut(string(content), separator)
		f.Add(in)
	}
	f.Fuzz(func(t *testing.T, in string) {
		if strings.Contains(in, "import") {
			return // The fuzz test skips inputs with the directive import, because it would read files of this machine.
		}
		out, err := adapt(in)
		if err != nil {
			return
		}
		var stated struct {
			Apps struct {
				Keygate *config.Config `json:"keygate"`
			} `json:"apps"`
		}
		if err := json.Unmarshal([]byte(out), &stated); err != nil {
			t.Fatalf("the adapted JSON can't be read: %v\n%s", err, out)
		}
		if app := stated.Apps.Keygate; app != nil {
			if err := app.CheckWithoutPlaceholders(); err != nil {
				t.Fatalf("the adapted JSON is rejected: %v\n%s", err, out)
			}
		}
	})
}
