package api

import (
	"net/http"

	"github.com/keygate-dev/keygate/plugin/scanner"
)

// ScannerRules are rules with which a secret scanner finds a keyspace's keys.
type ScannerRules struct {
	Format scanner.Format `json:"format"`
	// Rules is the content of a file, or the text for a web form, depending on the format.
	Rules string `json:"rules"`
}

var _ = document("GET /v1/scanner-rules", doc{
	Summary:     "Writes rules for secret scanners that find the keyspace's keys in code.",
	Description: "There is a rule for each shape that has a prefix. A regular expression can't check a key's checksum, so that a match may be no key.",
	Query: map[string]schema{
		"format": oneOf("The scanner that the rules are for: gitleaks (TOML), trufflehog (YAML with custom detectors) or github (custom patterns).",
			string(scanner.Gitleaks), string(scanner.TruffleHog), string(scanner.GitHub)).with("default", string(scanner.Gitleaks)),
	},
	Answers: map[int]any{http.StatusOK: ScannerRules{}},
})

func (c *call) getScannerRules() error {
	f := scanner.Format(c.query("format"))
	if f == "" {
		f = scanner.Gitleaks
	}
	rules, err := scanner.Rules(f, c.keyspace, c.ks.Grammar.Shapes())
	if err != nil {
		return parameterError("format", "must be gitleaks, trufflehog or github")
	}
	return c.json(http.StatusOK, ScannerRules{Format: f, Rules: rules})
}
