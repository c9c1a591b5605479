package checkup_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	_ "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	_ "github.com/keygate-dev/keygate/caddymodule"
	"github.com/keygate-dev/keygate/caddymodule/checkup"
	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/caddymodule/sites"
)

// warningsOf returns the warnings that Keygate logs when a Caddyfile starts, one line each.
func warningsOf(t *testing.T, caddyfile string) []string {
	t.Helper()
	text, err := adapt(caddyfile)
	if err != nil {
		t.Fatal(err)
	}
	at := config.LastAdapted.Take()
	loaded, err := provisioned(t, text).AppIfConfigured(config.AppName)
	if err != nil {
		t.Fatal(err)
	}
	app := loaded.(sites.App)
	return checkup.New(app.Context(), app.Log(), app.Compiled()).WarningLines(at)
}

// file returns a Caddyfile with options in the global option keygate, with further global options,
// and with sites.
func file(options, global, sites string) string {
	return "{\n\tadmin off\n\tpersist_config off\n\tauto_https off\n\tlog {\n\t\tformat keygate\n\t}\n" + global + "\n\tkeygate {\n" + options + "\n\t}\n}\n" + sites
}

func siteWith(lines string) string { return "http://localhost:8080 {\n" + lines + "\n}\n" }

func TestWarnings(t *testing.T) {
	good := siteWith("keygate\nreverse_proxy localhost:9000")
	for _, tt := range []struct {
		name, caddyfile string
		// want are parts of the only warning. If want is empty, there is no warning.
		want []string
	}{
		{"nothing wrong", file("", "", good), nil},
		{"a log that shows keys", strings.Replace(file("", "", good), "format keygate", "format json", 1), []string{"WARN", "default", "format keygate"}},
		{"a site's log that shows keys", file("", "", siteWith("keygate\nreverse_proxy localhost:9000\nlog {\noutput file log\nformat json\n}")), []string{"log0", "format keygate"}},
		{"a site's log that shows none", file("", "", siteWith("keygate\nreverse_proxy localhost:9000\nlog {\noutput discard\nformat keygate {\nwrap console\n}\n}")), nil},

		{"pepper in clear", file("pepper 0123456789abcdef", "", good), []string{"WARN", "Caddyfile:10", "pepper", "{env.KEYGATE_PEPPER}", "{$VAR}"}},
		{"pepper of a variable", file("pepper {env.KEYGATE_TEST_PEPPER}", "", good), nil},
		{"previous pepper in clear", file("pepper {env.KEYGATE_TEST_PEPPER} 0123456789abcdef", "", good), []string{"peppers[1]"}},
		{"import pepper in clear", file("import_pepper 0123456789abcdef", "", good), []string{"import_pepper"}},
		{"secret in clear", file("secret 0123456789abcdef0123456789abcdef", "", good), []string{"Caddyfile:10", "{env.KEYGATE_SECRET}"}},
		{"password of PostgreSQL", file("store postgres postgres://u:hunter2@127.0.0.1:1/d", "", good), []string{"Caddyfile:10", "{env.DATABASE_URL}"}},
		{"password of PostgreSQL as a keyword", file("store postgres \"host=127.0.0.1 password=hunter2\"", "", good), []string{"{env.DATABASE_URL}"}},
		{"password of PostgreSQL as a parameter", file("store postgres postgres://127.0.0.1:1/d?user=u&password=hunter2", "", good), []string{"{env.DATABASE_URL}"}},
		{"no password", file("store postgres postgres://u@127.0.0.1:1/d", "", good), nil},
		{"password of a variable", file("store postgres postgres://u:{env.KEYGATE_TEST_PEPPER}@127.0.0.1:1/d", "", good), nil},
		{"password of Redis", file("limits redis redis://u:hunter2@127.0.0.1:1", "", good), []string{"Caddyfile:10", "{env.REDIS_URL}"}},
		{"password of Sentinel", file("limits redis redis://127.0.0.1:1?master_set=m&sentinel_password=hunter2", "", good), []string{"{env.REDIS_URL}"}},

		{"no directive", file("", "", siteWith("reverse_proxy localhost:9000")), []string{"WARN", "no site checks the keys"}},
		{"no directive for one of two", file("keyspace a {\n}\nkeyspace b {\n}", "", siteWith("keygate a\nreverse_proxy localhost:9000")), []string{"no site checks the keys", "keyspace b"}},
		{"no directive beside an API", file("", "", siteWith("reverse_proxy localhost:9000")+"http://localhost:8081 {\nkeygate_api\n}\n"), []string{"no site checks the keys"}},
		{"keys checked for a response", file("", "", siteWith("reverse_proxy localhost:9000 {\n@ok status 2xx\nhandle_response @ok {\nkeygate\nrespond ok\n}\n}")), nil},
		{"keys verified over the API alone", file("", "", siteWith("keygate_api")), nil},

		{"order after reverse_proxy", file("", "order keygate after reverse_proxy", good), []string{"WARN", "Caddyfile:14", "localhost", "reverse_proxy comes before it", "order keygate"}},
		{"order after a path's reverse_proxy", file("", "order keygate last", siteWith("keygate\nreverse_proxy /api/* localhost:9000")), []string{"reverse_proxy comes before it", "protects nothing"}},
		{"order that changes nothing", file("", "order keygate before reverse_proxy", good), nil},
		{"behind reverse_proxy in a route", file("", "", siteWith("route {\nreverse_proxy localhost:9000\nkeygate\n}")), []string{"checks no request", "reverse_proxy"}},
		{"behind file_server in a route", file("", "", siteWith("route {\nfile_server\nkeygate\n}")), []string{"file_server comes before it"}},
		{"behind respond in a route", file("", "", siteWith("route {\nrespond ok\nkeygate\n}")), []string{"respond comes before it"}},
		{"behind a redirection", file("", "", siteWith("redir https://localhost{uri}\nkeygate")), []string{"redir comes before it"}},
		{"behind php_fastcgi in a route", file("", "", siteWith("route {\nphp_fastcgi localhost:9000\nkeygate\n}")), []string{"reverse_proxy comes before it"}},
		{"a branch that reaches the upstream unchecked", file("", "", siteWith("handle /api/* {\nkeygate\nreverse_proxy localhost:9000\n}\nhandle {\nreverse_proxy localhost:9000\n}")), []string{"WARN", "Caddyfile:15", "matcher of the path", "keygate_paths"}},
		{"a route for a path, then a proxy for all", file("", "", siteWith("route /api/* {\nkeygate\n}\nreverse_proxy localhost:9000")), []string{"matcher of the path"}},
		{"a branch for a regular expression", file("", "", siteWith("@api path_regexp ^/api/\nhandle @api {\nkeygate\nreverse_proxy localhost:9000\n}\nreverse_proxy localhost:9000")), []string{"matcher of the path"}},
		{"branches with keygate_paths", file("", "", siteWith("keygate_paths\nhandle /api/* {\nkeygate\nreverse_proxy localhost:9000\n}\nhandle {\nreverse_proxy localhost:9000\n}")), nil},
		{"a branch that reaches another upstream", file("", "", siteWith("handle /api/* {\nkeygate\nreverse_proxy localhost:9000\n}\nhandle {\nreverse_proxy localhost:9001\n}")), nil},
		{"a branch that answers by itself", file("", "", siteWith("handle /api/* {\nkeygate\nreverse_proxy localhost:9000\n}\nhandle {\nrespond hello\n}")), nil},
		{"branches that all check", file("", "", siteWith("handle /api/* {\nkeygate\nreverse_proxy localhost:9000\n}\nhandle {\nkeygate\nreverse_proxy localhost:9000\n}")), nil},
		{"branches by host", file("", "", "http://a.localhost:8080 {\nhandle /api/* {\nkeygate\nreverse_proxy localhost:9000\n}\n}\nhttp://b.localhost:8080 {\nreverse_proxy localhost:9000\n}\n"), nil},
		{"matchers that are rules", file("keyspace a {\n}\nkeyspace b {\n}", "", siteWith("keygate /a/* a\nkeygate /b/* b\nreverse_proxy localhost:9000")), nil},

		{"behind answers for one path", file("", "", siteWith("route {\nrespond /health ok\nkeygate\nreverse_proxy localhost:9000\n}")), nil},
		{"behind one redirection", file("", "", siteWith("redir /old /new\nkeygate\nreverse_proxy localhost:9000")), nil},
		{"behind forward_auth", file("", "", siteWith("route {\nforward_auth localhost:1 {\nuri /\n}\nkeygate\nreverse_proxy localhost:9000\n}")), nil},
		{"behind intercept", file("", "", siteWith("route {\nintercept {\n@e status 500\nhandle_response @e {\nrespond oops\n}\n}\nkeygate\nreverse_proxy localhost:9000\n}")), nil},
		{"behind files, if there are any", file("", "", siteWith("route {\nfile_server {\npass_thru\n}\nkeygate\nreverse_proxy localhost:9000\n}")), nil},
		{"in branches", file("", "", siteWith("handle /a/* {\nkeygate\nreverse_proxy localhost:9000\n}\nhandle {\nkeygate\nreverse_proxy localhost:9001\n}")), nil},

		{"public everything", file("", "", siteWith("keygate {\npublic /*\n}\nreverse_proxy localhost:9000")), []string{"WARN", "Caddyfile:14", "public /*"}},
		{"public everything but", file("", "", siteWith("keygate {\npublic /*\nprotect /api/*\n}\nreverse_proxy localhost:9000")), nil},
		{"public preflights", file("", "", siteWith("keygate {\npublic OPTIONS /*\n}\nreverse_proxy localhost:9000")), nil},
		{"a second directive", file("", "", siteWith("keygate\nhandle /admin/* {\nkeygate {\nrealm admin\n}\nreverse_proxy localhost:9000\n}")), []string{"WARN", "Caddyfile:16", "Caddyfile:14", "never used"}},
		{"a second directive for the rest", file("keyspace a {\n}\nkeyspace b {\n}", "", siteWith("@a host a.example\nkeygate @a a\nkeygate b\nreverse_proxy localhost:9000")), nil},
		{"a matcher of a header", file("", "", siteWith("@m header X-App mobile\nkeygate @m\nreverse_proxy localhost:9000")), []string{"WARN", "Caddyfile:15", "a client chooses"}},
		{"a matcher of no header", file("", "", siteWith("@m not header X-Internal 1\nkeygate @m\nreverse_proxy localhost:9000")), []string{"a client chooses"}},
		{"a matcher of a query", file("", "", siteWith("@m query key=*\nkeygate @m\nreverse_proxy localhost:9000")), []string{"a client chooses"}},
		{"a matcher of a variable", file("", "", siteWith("vars api {path}\n@m vars {vars.api} /api\nkeygate @m\nreverse_proxy localhost:9000")), []string{"a client chooses"}},
		{"a matcher of addresses", file("", "", siteWith("@m not remote_ip 10.0.0.0/8\nkeygate @m\nreverse_proxy localhost:9000")), nil},
		{"a matcher of a header, and the rest", file("keyspace a {\n}\nkeyspace b {\n}", "", siteWith("@a header X-Product a\nkeygate @a a\nkeygate b\nreverse_proxy localhost:9000")), nil},
		{"observe", file("", "", siteWith("keygate {\nobserve\n}\nreverse_proxy localhost:9000")), []string{"INFO", "Caddyfile:14", "observes"}},
		{"a plan that observes", file("plan trial {\nobserve\n}", "", good), []string{"INFO", "trial", "observes"}},
		{"no header", file("credentials {\nquery api_key\n}", "", good), []string{"INFO", "Caddyfile:10", "`default`"}},
		{"the default places and another", file("credentials {\ndefault\nquery api_key\n}", "", good), nil},

		{"trusted proxies", file("", "servers {\ntrusted_proxies static 127.0.0.1/32\n}", good), []string{"WARN", "trusted_proxies_strict", ":8080"}},
		{"every address as a trusted proxy", file("", "servers {\ntrusted_proxies static 0.0.0.0/0\ntrusted_proxies_strict\n}", good), []string{"WARN", "every address", ":8080"}},
		{"trusted proxies, strictly", file("", "servers {\ntrusted_proxies static 127.0.0.1/32\ntrusted_proxies_strict\n}", good), nil},
		{"trusted proxies that set a header of their own", file("", "servers {\ntrusted_proxies static 127.0.0.1/32\nclient_ip_headers X-Real-IP\n}", good), nil},

		{"a header that the server expects otherwise", file("", "servers {\nexpected_underscore_headers X_API_Key\n}", good), []string{"WARN", "drops the header X-Api-Key"}},
		{"a header with an underscore that the server expects", file("credentials {\nheader X_API_Key\n}", "servers {\nexpected_underscore_headers x_api_*\n}", good), nil},

		{"error pages of the path", file("", "", siteWith("keygate\nreverse_proxy localhost:9000\nhandle_errors {\nfile_server\n}")), []string{"WARN", "handle_errors", "rewrite"}},
		{"error pages of the path but for 404", file("", "", siteWith("keygate\nreverse_proxy localhost:9000\nhandle_errors {\n@404 expression `{err.status_code} == 404`\nrewrite @404 /404.html\nfile_server\n}")), []string{"handle_errors"}},
		{"a method that is misspelled", file("", "", siteWith("keygate {\nprotect PSOT /api/*\n}\nreverse_proxy localhost:9000")), []string{"WARN", "Caddyfile:14", "PSOT"}},
		{"methods", file("scopes a", "", siteWith("keygate {\nscope PROPFIND,POST /api/* a\n}\nreverse_proxy localhost:9000")), nil},
		{"what holds without Redis, without Redis", file("plan p {\non_redis_down closed\n}", "", good), []string{"WARN", "Caddyfile:10", "limits redis"}},
		{"what holds without Redis", file("limits redis redis://127.0.0.1:1\nplan p {\non_redis_down closed\n}", "", good), nil},

		{"errors for the upstream", file("", "", siteWith("keygate\nreverse_proxy localhost:9000\nhandle_errors {\nreverse_proxy localhost:9000\n}")), []string{"WARN", "handle_errors", "rewrite * /error"}},
		{"errors for a page of the upstream", file("", "", siteWith("keygate\nreverse_proxy localhost:9000\nhandle_errors {\nrewrite * /error/{err.status_code}\nreverse_proxy localhost:9000\n}")), nil},
		{"errors for another upstream", file("", "", siteWith("keygate\nreverse_proxy localhost:9000\nhandle_errors {\nreverse_proxy localhost:9001\n}")), nil},
		{"an error page", file("", "", siteWith("keygate\nreverse_proxy localhost:9000\nhandle_errors {\nrewrite * /error.html\nfile_server\n}")), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			t.Setenv("KEYGATE_TEST_PEPPER", "fedcba9876543210")
			got := warningsOf(t, tt.caddyfile)
			if len(tt.want) == 0 != (len(got) == 0) || len(got) > 1 {
				t.Fatalf("got %d lines:\n%s", len(got), strings.Join(got, "\n"))
			}
			for _, part := range tt.want {
				if !strings.Contains(got[0], part) {
					t.Errorf("no %q in: %s", part, got[0])
				}
			}
			if len(got) > 0 && (strings.Contains(got[0], "hunter2") || strings.Contains(got[0], "0123456789abcdef")) {
				t.Errorf("the warning shows a secret: %s", got[0])
			}
		})
	}
}

// The shipped configurations, and the first one in the README, cause no warnings.
func TestNoWarningsOfShippedConfigurations(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, first, _ := strings.Cut(string(readme), "```\n{\n\t")
	first, _, _ = strings.Cut("{\n\t"+first, "```")
	t.Chdir(filepath.Join("..", "..", "configs"))
	files := shipped(t)
	files["README.md"] = first
	t.Setenv("KEYGATE_DB", filepath.Join(t.TempDir(), "keygate.db"))
	for name, text := range files {
		t.Run(name, func(t *testing.T) {
			for _, line := range warningsOf(t, text) {
				t.Error(line)
			}
		})
	}
}

// shipped returns the shipped configurations by file name. The working directory must be configs.
func shipped(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("*.Caddyfile")
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

func mustConfig(t *testing.T, raw []byte) *caddy.Config {
	t.Helper()
	config := new(caddy.Config)
	if err := caddy.StrictUnmarshalJSON(raw, config); err != nil {
		t.Fatal(err)
	}
	return config
}
