package api_test

import (
	"net/url"
	"strings"
	"testing"
)

func TestScannerRules(t *testing.T) {
	w := newFixture(t)
	for format, sign := range map[string]string{"": "[[rules]]", "gitleaks": "[[rules]]", "trufflehog": "detectors:", "github": "Secret format:"} {
		r := w.send("GET", "/v1/scanner-rules?format="+url.QueryEscape(format), "").want(200)
		if rules := r["rules"].(string); !strings.Contains(rules, sign) || !strings.Contains(rules, "[0-9A-Za-z]{") {
			t.Errorf("%q: %v", format, r)
		}
	}
	w.send("GET", "/v1/scanner-rules?format=grep", "").wantProblem(422, "invalid_field", "format")
}
