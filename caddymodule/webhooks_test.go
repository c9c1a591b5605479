package caddymodule

import (
	"encoding/json"
	"github.com/keygate-dev/keygate/caddymodule/config"
	"slices"
	"testing"
)

// Saved configurations in which allow_private is a boolean still load.
func TestAllowPrivateInJSON(t *testing.T) {
	for text, want := range map[string][]string{
		`{"allow_private":true}`:  {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"},
		`{"allow_private":false}`: nil,
		`{}`:                      nil,
		`{"allow_private":["127.0.0.0/8","::1"]}`: {"127.0.0.0/8", "::1/128"},
	} {
		var c config.WebhooksConfig
		if err := json.Unmarshal([]byte(text), &c); err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		s, err := c.Compile()
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		var got []string
		for _, p := range s.Reach.Private {
			got = append(got, p.String())
		}
		if !slices.Equal(got, want) || s.Reach.Listens == nil {
			t.Errorf("%s allows %v, want %v", text, got, want)
		}
	}
	for _, text := range []string{`{"allow_private":"10.0.0.0/8"}`, `{"allow_private":1}`, `{"allow_private":["10.0.0.0/33"]}`} {
		var c config.WebhooksConfig
		err := json.Unmarshal([]byte(text), &c)
		if err == nil {
			_, err = c.Compile()
		}
		if err == nil {
			t.Errorf("%s is taken", text)
		}
	}
}
