package caddymodule

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// startLog starts a site and returns the content of a log with these options.
func startLog(t *testing.T, options, site string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "caddy.log")
	loadCaddyfile(t, `{
	admin off
	persist_config off
	auto_https off
	log {
		output file `+file+`
		`+options+`
	}
	keygate {
		store sqlite `+filepath.Join(t.TempDir(), "keygate.db")+`
	}
}
http://127.0.0.1:`+fmt.Sprint(freePort(t))+` {
`+site+`
}
`)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// shippedFilter is the filter in Caddyfile.example.
const shippedFilter = `request>host keygate
		request>uri keygate
		request>headers keygate
		resp_headers keygate
		host keygate
		uri keygate
		headers keygate
`

func TestWarnsOfDeferredHeaders(t *testing.T) {
	for site, warned := range map[string]bool{
		"header >Cache-Control \"public, max-age=60\"\nkeygate":                  true,
		"header {\nCache-Control max-age=60\ndefer\n}\nkeygate":                  true,
		"header -Cache-Control\nkeygate":                                         true,
		"header {\n-Server\nCache-Control max-age=60\ndefer\n}\nkeygate":         true,
		"header >Cache-Control no-store max-age=60\nkeygate":                     true,
		"header /assets/* >Cache-Control max-age=60\nkeygate":                    true,
		"header Cache-Control max-age=60\nkeygate":                               false,
		"header -Server\nkeygate":                                                false,
		"header ?Cache-Control max-age=60\nkeygate":                              false,
		"header >Cache-Control \"no-store, private\"\nkeygate":                   false,
		"header {\nCache-Control max-age=60\nmatch {\nstatus 200\n}\n}\nkeygate": false,
		"header {\nCache-Control max-age=60\nmatch {\nstatus 4xx\n}\n}\nkeygate": true,
		"route {\nkeygate\nheader >Cache-Control max-age=60\n}":                  false,
		"header >Cache-Control max-age=60":                                       false,
	} {
		log := startLog(t, "format filter {\n"+shippedFilter+"}", site+"\nrespond ok")
		if got := strings.Contains(log, "a deferred header directive removes no-store"); got != warned {
			t.Errorf("%q: warned %t\n%s", site, got, log)
		}
	}
}

func TestWarnsOfDebugLines(t *testing.T) {
	const text = "a logger at level DEBUG"
	all := shippedFilter
	for _, name := range []string{"env", "request_path", "result", "filename", "path", "from_path", "to_path", "error"} {
		all += name + " keygate\n"
	}
	for name, tt := range map[string]struct {
		options string
		lines   []string
	}{
		"shipped":              {"format filter {\n" + shippedFilter + "}", nil},
		"shipped, debug":       {"level DEBUG\nformat filter {\n" + shippedFilter + "}", []string{"filename keygate", "request_path keygate", "env keygate"}},
		"all, debug":           {"level DEBUG\nformat filter {\n" + all + "}", nil},
		"keygate, debug":       {"level DEBUG\nformat keygate", nil},
		"no filter, debug":     {"level DEBUG\nformat json", []string{"request>uri keygate", "uri keygate"}},
		"debug of another app": {"level DEBUG\nformat json\ninclude tls", nil},
	} {
		log := startLog(t, tt.options, "keygate\nrespond ok")
		if got := strings.Contains(log, text); got != (tt.lines != nil) {
			t.Errorf("%s: warned %t\n%s", name, got, log)
		}
		for _, line := range tt.lines {
			if !strings.Contains(log, line) && !strings.Contains(log, strings.ReplaceAll(line, ">", `\u003e`)) {
				t.Errorf("%s: the warning lacks %q\n%s", name, line, log)
			}
		}
	}
}
