package architecture

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	maxLines = 4000      // maxLines bounds the lines of a package without its tests.
	maxFiles = 25        // maxFiles bounds the files of a directory without its tests.
	maxBytes = 24 * 1024 // maxBytes bounds the size of a file in bytes.
)

// TestSizes checks that no package, directory or file is larger than its limit.
func TestSizes(t *testing.T) {
	const root = "../.."
	lines, files := make(map[string]int), make(map[string]int)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".git") {
			return filepath.SkipDir
		}
		if filepath.Ext(path) != ".go" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		path = filepath.ToSlash(strings.TrimPrefix(path, root+"/"))
		if len(text) > maxBytes {
			t.Errorf("%s has %d bytes, more than %d", path, len(text), maxBytes)
		}
		if !strings.HasSuffix(path, "_test.go") {
			dir := filepath.ToSlash(filepath.Dir(path))
			lines[dir] += bytes.Count(text, []byte("\n"))
			files[dir]++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 20 {
		t.Fatalf("only %d packages were found", len(files))
	}
	for dir, n := range files {
		if n > maxFiles || lines[dir] > maxLines {
			t.Errorf("%s has %d files of %d lines, more than %d or %d", dir, n, lines[dir], maxFiles, maxLines)
		}
	}
}
