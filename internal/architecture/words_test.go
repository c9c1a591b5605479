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
// An entry in lower case is a whole word or phrase in any case; another entry is a part of an identifier.
var retired = []string{
	"Stray", "Deputy", "Abreast", "InsertOnce", "AsHeld", "heldRarely", "triesOn", "tryOn", "Promised", "Occasion", "Herald",
	"abreast", "a rig", "are asked", "are away", "are heard", "are no part of", "are told", "afresh", "anew", "as good as", "as it came",
	"as new", "at an end", "by the word of", "can't be told", "deaf", "deed", "deeds", "deputy", "forthwith", "from afar", "given head",
	"goes by", "has to go", "hence", "herald", "hitherto", "holds that", "horizon", "how far it is", "in force", "in good order",
	"in the place of", "in vain", "is away", "is heard", "is known of", "is let in", "is noted", "is owed", "is through with", "is told",
	"judge", "judged", "judges", "judging", "kin", "kindred", "kinship", "lest", "lets go of", "makes do", "may be had", "mute",
	"no sooner", "of before this", "one of before", "presently", "rig", "say whether", "says whether", "sees to it", "somebody",
	"sought", "spoil", "spoils", "spoilt", "stands behind", "stands still", "tells whether", "the truth", "thereby", "therein",
	"to be gone", "told head", "tried on", "twin", "whereby", "wherein", "whoever", "witness", "witnesses",
}

// allowed are lines that hold a retired word on purpose: the names of stored keys.
var allowed = regexp.MustCompile(`['"](kin|herald)['"]`)

// retiredWords returns the retired words in a line.
func retiredWords(line string) (found []string) {
	if allowed.MatchString(line) {
		return nil
	}
	low := strings.ToLower(line)
	for _, word := range retired {
		text, whole := line, word == strings.ToLower(word)
		if whole {
			text = low
		}
		for from := 0; ; {
			i := strings.Index(text[from:], word)
			if i < 0 {
				break
			}
			i += from
			from = i + len(word)
			if !whole || (i == 0 || !isWord(text[i-1])) && (from == len(text) || !isWord(text[from])) {
				found = append(found, word)
				break
			}
		}
	}
	return found
}

func isWord(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

func TestRetiredWordsAreFound(t *testing.T) {
	for line, want := range map[string]int{
		"// Whoever reads it": 1, "x := isRig(kin)": 1, "var rig *Rig": 1, "rigour, kind, akin, speeds": 0, "type DeputyStore struct{}": 1,
		`SELECT value FROM meta WHERE name = 'kin'`: 0, "as new as possible": 1, "has newer": 0,
	} {
		if got := retiredWords(line); len(got) != want {
			t.Errorf("%q: found %q, want %d", line, got, want)
		}
	}
}

// TestRetiredWords checks that code, messages and documentation use the words of the glossary, and no retired words.
func TestRetiredWords(t *testing.T) {
	const root = "../.."
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
			for _, word := range retiredWords(l) {
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
