// Package scanner writes the shapes of a keyspace's keys as rules for secret scanners: gitleaks, TruffleHog and GitHub's
// secret scanning.
//
// A rule finds all texts of a shape. It can't check the checksum, which no regular expression computes: the gateway does
// that when a match is reported to it.
package scanner

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/keygate-dev/keygate/plugin/apikey"
)

// Format names the scanner that rules are for.
type Format string

const (
	// Gitleaks is TOML for gitleaks 8: https://github.com/gitleaks/gitleaks#configuration
	Gitleaks Format = "gitleaks"
	// TruffleHog is YAML with custom detectors for TruffleHog 3:
	// https://docs.trufflesecurity.com/custom-detectors
	TruffleHog Format = "trufflehog"
	// GitHub is a text with custom patterns. A person enters them in the settings of a repository
	// or organisation, which accept no file:
	// https://docs.github.com/en/code-security/secret-scanning/using-advanced-secret-scanning-and-push-protection-features/custom-patterns
	GitHub Format = "github"
)

// Formats returns all formats.
func Formats() []Format { return []Format{Gitleaks, TruffleHog, GitHub} }

// Rules returns the rules for keys of the shapes, one for each shape with a prefix. A shape without a prefix gets a comment
// instead of a rule, which would match every word of its length. An unknown format is an error.
func Rules(f Format, keyspace string, shapes []apikey.Shape) (string, error) {
	var write func(*strings.Builder, rule)
	var b strings.Builder
	switch f {
	case Gitleaks:
		write = gitleaks
	case TruffleHog:
		write = truffleHog
	case GitHub:
		write = gitHub
	default:
		return "", fmt.Errorf("unknown format %q: use gitleaks, trufflehog or github", f)
	}
	fmt.Fprintf(&b, "# Keys of the keyspace %s. A match has the shape of a key; the gateway knows whether it is one.\n", keyspace)
	var rules []rule
	for i := range shapes {
		s := &shapes[i]
		if s.Prefix == "" {
			fmt.Fprintf(&b, "# Keys of the shape %s have no prefix, so no rule can distinguish them from other words.\n", s.Name)
			continue
		}
		rules = append(rules, ruleOf(keyspace, s, rules))
	}
	if f == TruffleHog {
		b.WriteString("detectors:")
		if len(rules) == 0 {
			b.WriteString(" []")
		}
		b.WriteByte('\n')
	}
	for _, r := range rules {
		write(&b, r)
	}
	return b.String(), nil
}

// rule holds the parts of a rule that all formats share.
type rule struct {
	name, description string
	prefix            string
	// secret is a regular expression for a whole key. class is a regular expression for one character after the prefix.
	secret, class string
}

func ruleOf(keyspace string, s *apikey.Shape, before []rule) rule {
	kind := s.Environment
	description := fmt.Sprintf("API key of %s (%s)", keyspace, s.Environment)
	if !s.Issued {
		kind = s.Name
		description = fmt.Sprintf("API key of %s, issued elsewhere (%s)", keyspace, s.Name)
	}
	r := rule{prefix: s.Prefix, class: class(s.Charset), description: description}
	r.secret = literal(s.Prefix) + r.class + "{" + strconv.Itoa(s.MinLength)
	if s.MaxLength != s.MinLength {
		r.secret += "," + strconv.Itoa(s.MaxLength)
	}
	r.secret += "}"
	base := "keygate-" + keyspace + "-" + kind
	r.name = base
	// Two rules would have one name where an environment has several prefixes, or where an
	// accepted shape has an environment's name. A number makes the names differ.
	for n := 2; nameTaken(before, r.name); n++ {
		r.name = base + "-" + strconv.Itoa(n)
	}
	return r
}

func nameTaken(rules []rule, name string) bool {
	for _, r := range rules {
		if r.name == name {
			return true
		}
	}
	return false
}

// literal returns the regular expression of a prefix. A prefix may hold any visible character but
// comma, semicolon, quotes, % and \.
func literal(prefix string) string { return regexp.QuoteMeta(prefix) }

// class returns a charset as a character class that RE2, PCRE and Hyperscan understand.
func class(c apikey.Charset) string {
	switch c {
	case apikey.Base58:
		return "[1-9A-HJ-NP-Za-km-z]"
	case apikey.Hex:
		return "[0-9A-Fa-f]"
	case apikey.AnyChar:
		return `[!#-&(-+\x2d-:<-~]`
	}
	return "[0-9A-Za-z]"
}

// word reports whether c is a word character, at which the expression \b sees a word's begin or
// end.
func word(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
}

// bounded returns an RE2 expression that matches the key as a whole word; its first group is the
// key. Where possible it does not consume the characters around the key, so that it finds both of
// two keys with one character between them.
func (r rule) bounded() string {
	before, after := "", `\b`
	if word(r.prefix[0]) {
		before = `\b`
	}
	if r.class == class(apikey.AnyChar) {
		after = "(?:[^" + r.class[1:] + "|$)"
	}
	return before + "(" + r.secret + ")" + after
}

// gitleaks appends r as TOML. The expression can stand between quotes, as neither a prefix nor a
// class holds a quote.
func gitleaks(b *strings.Builder, r rule) {
	fmt.Fprintf(b, "\n[[rules]]\nid = %q\ndescription = %q\nregex = '''%s'''\nsecretGroup = 1\nkeywords = [%q]\n",
		r.name, r.description, r.bounded(), strings.ToLower(r.prefix))
}

func truffleHog(b *strings.Builder, r rule) {
	fmt.Fprintf(b, "  - name: '%s'\n    description: '%s'\n    keywords:\n      - '%s'\n    regex:\n      key: '%s'\n",
		r.name, r.description, r.prefix, r.bounded())
}

func gitHub(b *strings.Builder, r rule) {
	after := `\z|[^0-9A-Za-z]`
	if r.class == class(apikey.AnyChar) {
		after = `\z|[^` + r.class[1:]
	}
	before := `\A|[^0-9A-Za-z]`
	fmt.Fprintf(b, "\nPattern name:   %s\nSecret format:  %s\nBefore secret:  %s\nAfter secret:   %s\n", r.name, r.secret, before, after)
}
