package architecture

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// retired are names and phrases that the glossary in docs/architecture.md replaces. Bare words
// with a second meaning, such as sync.Once and HEAD, are not listed.
var retired = []string{
	`kinship`, `Strays?\b`, `Deputy`, `\bdeputy\b`, `[Aa]breast`, `InsertOnce`, `AsHeld`, `heldRarely`,
	`says whether`, `say whether`, `tells whether`, `\btried on\b`, `\bstands still\b`, `\bfrom afar\b`, `\bin good order\b`,
	`\bthe truth\b`, `\bis noted\b`, `\bgoes by\b`, `\banew\b`, `spoilt`, `triesOn`, `tryOn`,
	`[Hh]erald`, `\bkin\b([^'"]|$)`, `\bkindred\b`, `\btwin\b`, `\bdeeds?\b`, `\bhorizon\b`, `\bmute\b`, `\bsought\b`, `\bwitness`,
	`\b(given|told) head\b`, `Promised\b`, `\bOccasion\b`, `\bin vain\b`, `\bas new\b`, `\bafresh\b`, `\bis known of\b`,
	`\bhow far it is\b`, `\blets go of\b`, `\bhas to go\b`, `\bat an end\b`, `\bis owed\b`, `\bis let in\b`, `\bsees to it\b`,
	`\bto be gone\b`, `\bone of before\b`, `\bof before this\b`, `\bin force\b`, `\bare no part of\b`, `\bstands behind\b`,
	`\b(forthwith|hitherto|thereby|whereby|therein|lest)\b`, `\bspoils?\b`, `\bis through with\b`, `\bmakes do\b`,
	`\b[Ww]hoever\b`, `\b[Ss]omebody\b`, `\b[Jj]udg(e|es|ed|ing)\b`, `\b(is|are) told\b`, `\b(is|are) heard\b`, `\bis away\b`, `\bare away\b`,
	`\brig\b`, `\bdeaf\b`, `\bby the word of\b`, `\bas it came\b`, `\bholds that\b`, `\bare asked\b`, `\bas good as\b`,
	`\bin the place of\b`, `\bno sooner\b`, `\b(presently|hence)\b`, `\bmay be had\b`, `\bcan't be told\b`,
}

// Code, messages and documentation use the glossary's words, and no retired ones.
func TestRetiredWords(t *testing.T) {
	const root = "../.."
	pattern := regexp.MustCompile(strings.Join(retired, "|"))
	extensions := []string{".go", ".md", ".js", ".css", ".html", ".sh", ".sql", ".Caddyfile", ".example", ".yaml", ".yml", ".json", ".service"}
	texts := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := filepath.ToSlash(strings.TrimPrefix(path, root+"/"))
		switch {
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "testdata" || strings.HasPrefix(name, "e2e/browser/axe")):
			return filepath.SkipDir
		case d.IsDir() || !slices.Contains(extensions, filepath.Ext(path)) || name == "internal/architecture/words_test.go":
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		texts++
		line := 0
		for l := range strings.Lines(string(text)) {
			line++
			if word := pattern.FindString(l); word != "" {
				t.Errorf("%s:%d: %q is retired: use the word that docs/architecture.md has for it", name, line, word)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if texts < 300 {
		t.Errorf("only %d texts were found", texts)
	}
}
