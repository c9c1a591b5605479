package caddymodule

import (
	"bytes"
	"encoding/json"

	_ "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/caddyserver/caddy/v2/caddyconfig"
)

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

// file returns a Caddyfile with options in the global option keygate, with further global options,
// and with sites.
func file(options, global, sites string) string {
	return "{\n\tadmin off\n\tpersist_config off\n\tauto_https off\n\tlog {\n\t\tformat keygate\n\t}\n" + global + "\n\tkeygate {\n" + options + "\n\t}\n}\n" + sites
}

func siteWith(lines string) string { return "http://localhost:8080 {\n" + lines + "\n}\n" }
