package version

import (
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
)

func TestVersionOfBuild(t *testing.T) {
	vcs := func(revision, modified string) []debug.BuildSetting {
		return []debug.BuildSetting{{Key: "vcs.revision", Value: revision}, {Key: "vcs.modified", Value: modified}}
	}
	dep := func(version string, replace *debug.Module) *debug.BuildInfo {
		return &debug.BuildInfo{
			Main: debug.Module{Path: "caddy", Version: "(devel)"},
			Deps: []*debug.Module{{Path: "example.com/other", Version: "v9.9.9"}, {Path: modulePath, Version: version, Replace: replace}},
			// The build settings describe the main module, here xcaddy's temporary one, and not
			// Keygate's module.
			Settings: vcs("ffffffffffffffffffff", "true"),
		}
	}
	const hash = "2676c2047fcd4a1d9a7b5f2c6e0d11223344aabb"
	own := func(settings []debug.BuildSetting) *debug.BuildInfo {
		return &debug.BuildInfo{Main: debug.Module{Path: modulePath, Version: "(devel)"}, Settings: settings}
	}
	for name, c := range map[string]struct {
		packaged string
		info     *debug.BuildInfo
		want     string
	}{
		"no build information":            {"", nil, release},
		"package":                         {"v1.2.3-4", own(vcs(hash, "true")), "1.2.3-4"},
		"checkout":                        {"", own(vcs(hash, "false")), release + "+2676c2047fcd"},
		"changed checkout":                {"", own(vcs(hash, "true")), release + "+2676c2047fcd.dirty"},
		"checkout without git":            {"", own(nil), release},
		"xcaddy with a tag":               {"", dep("v0.2.1", nil), "0.2.1"},
		"xcaddy with a release candidate": {"", dep("v0.3.0-rc.1", nil), "0.3.0-rc.1"},
		"xcaddy with a commit":            {"", dep("v0.0.0-20261130195513-2676c2047fcd", nil), release + "+2676c2047fcd"},
		"xcaddy with a later commit":      {"", dep("v0.1.1-0.20261130195513-2676c2047fcd", nil), release + "+2676c2047fcd"},
		"xcaddy with a checkout":          {"", dep("v0.0.0-00010101000000-000000000000", &debug.Module{Path: "/src"}), release},
	} {
		if got := versionOf(c.packaged, c.info); got != c.want {
			t.Errorf("%s: version %q, want %q", name, got, c.want)
		}
	}
}

func TestParseProductReadsProduct(t *testing.T) {
	if k, c := ParseProduct(Product()); k != String() || !strings.HasPrefix(c, "v") && c != "unknown" && c != "(devel)" {
		t.Errorf("of this program: %q, %q", k, c)
	}
	if k, c := ParseProduct("v2.11.9"); k != "" || c != "v2.11.9" {
		t.Errorf("of a gateway before 0.2.0: %q, %q", k, c)
	}
}

// The changelog has an entry for the version of this source, or for unreleased changes if the
// version ends in -dev.
func TestChangelogHasVersion(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "..", "CHANGELOG.md"))
	if err != nil {
		t.Fatal(err)
	}
	heading := "\n## Unreleased\n"
	if !strings.HasSuffix(release, "-dev") {
		heading = "\n## " + release + " - "
	}
	if n := strings.Count(string(b), heading); n != 1 {
		t.Errorf("the changelog has the heading %q %d times, want once", strings.TrimSpace(heading), n)
	}
}
