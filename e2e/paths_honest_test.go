package e2e

import (
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/keygate-dev/keygate/internal/pathlab"
)

// honestSite returns a site with a rule for paths, so that the gateway reads paths. The rule
// closes no path that honest clients use.
func honestSite(name, paths string) labSite {
	block := ""
	if paths != "" {
		block = "paths {\n" + paths + "\n}"
	}
	return labSite{name: name, site: "keygate {\n\t\tprotect /closed/*\n\t\t" + block + "\n\t}"}
}

// Paths of honest clients arrive byte for byte, with the `paths` line that their family needs, if
// any. A family without such a line needs none.
func TestHonestPaths(t *testing.T) {
	t.Parallel()
	families := pathlab.Honest()
	var lines []string
	for _, f := range families {
		if f.Remedy != "" {
			lines = append(lines, f.Remedy)
		}
	}
	plain, remedied := honestSite("plain", ""), honestSite("remedied", strings.Join(lines, "\n"))
	keyed := labSite{name: "without rules", site: "keygate", key: true}
	up := newWireUpstream(t)
	g, addrs := startLab(t, up, []labSite{plain, remedied, keyed})
	without := &wire{t: t, addr: addrs[plain.name], method: "GET"}
	with := &wire{t: t, addr: addrs[remedied.name], method: "GET"}
	ruleless := &wire{t: t, addr: addrs[keyed.name], method: "GET", key: g.key(t, "lab", nil).full}
	unchanged, equivalent := 0, 0
	for _, f := range families {
		for _, a := range with.send(f.Paths) {
			switch {
			case a.reached && a.target == a.sent:
				unchanged++
			case a.reached && a.target == pathlab.Equivalent(a.sent):
				equivalent++
			default:
				t.Errorf("%s: %q arrived as %q (%d), with the line %q", f.Name, a.sent, a.target, a.status, f.Remedy)
			}
		}
		needed := 0
		for _, a := range without.send(f.Paths) {
			switch {
			case f.Remedy == "" && (!a.reached || a.target != a.sent && a.target != pathlab.Equivalent(a.sent)):
				t.Errorf("%s: %q arrived as %q (%d) without a line", f.Name, a.sent, a.target, a.status)
			case !a.reached && a.status != http.StatusBadRequest:
				t.Errorf("%s: %q was answered %d", f.Name, a.sent, a.status)
			case !a.reached || a.target != a.sent:
				needed++
			}
		}
		if f.Remedy != "" && needed == 0 {
			t.Errorf("%s: every path arrives without the line %q", f.Name, f.Remedy)
		}
		for _, a := range ruleless.send(f.Paths) {
			if a.target != a.sent {
				t.Errorf("%s: %q arrived as %q (%d) where no rule is about paths", f.Name, a.sent, a.target, a.status)
			}
		}
	}
	if unchanged < 1900 {
		t.Errorf("%d paths arrived unchanged", unchanged)
	}
	t.Logf("%d paths arrived unchanged, %d in an equivalent spelling", unchanged, equivalent)
}

// exampleLine matches a row of the table of remedies in docs/paths.md: the description, an
// example, and the line.
var exampleLine = regexp.MustCompile("(?m)^\\| ([^|]+) \\| `([^`]+)` \\| `((?:allow|as_sent) [^`]+)` \\|$")

// Each example of docs/paths.md arrives changed or not at all without its line, and unchanged with
// the line.
func TestRemediesOfTheManual(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(shipped(t, "docs/paths.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := exampleLine.FindAllStringSubmatch(string(text), -1)
	if len(rows) < 10 {
		t.Fatalf("%d examples were found in docs/paths.md", len(rows))
	}
	sites := []labSite{honestSite("plain", "")}
	for i, row := range rows {
		sites = append(sites, honestSite(fmt.Sprint(i), row[3]))
	}
	_, addrs := startLab(t, newWireUpstream(t), sites)
	for i, row := range rows {
		for _, site := range []string{"plain", fmt.Sprint(i)} {
			w := &wire{t: t, addr: addrs[site], method: "GET"}
			for _, a := range w.send([]string{row[2]}) {
				same := a.reached && a.target == row[2]
				if site == "plain" && same || site != "plain" && !same {
					t.Errorf("%s: %q arrived as %q (%d) at the site %s of the line %q", row[1], row[2], a.target, a.status, site, row[3])
				}
			}
		}
	}
}
