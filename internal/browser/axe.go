package browser

import (
	_ "embed"
	"strings"
)

// axeJS is axe-core 4.14.1 of Deque Systems, from the npm package of that name; axe/LICENSE
// is its licence. It is part of tests only.
//
//go:embed axe/axe.min.js
var axeJS string

// axeRunJS runs every rule for WCAG 2.2 A and AA and the best practices, those that
// are off unless asked for included.
const axeRunJS = `axe.run(document, {
	runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22a', 'wcag22aa', 'best-practice'],
	rules: { 'target-size': { enabled: true } },
	resultTypes: ['violations'], preload: false, elementRef: false,
}).then(r => r.violations.map(v => ({
	rule: v.id, impact: v.impact, help: v.help,
	nodes: v.nodes.slice(0, 5).map(n => n.html.slice(0, 300) + ' — ' + n.failureSummary.replace(/\s+/g, ' ')),
})))`

// Accessible fails the test with every violation of a rule of accessibility that axe-core
// finds on the page as it stands. The page must be one whose scripts run.
func (tab *Tab) Accessible() {
	tab.t.Helper()
	var loaded bool
	tab.Eval(`typeof axe === 'object'`, &loaded)
	if !loaded {
		tab.Eval(axeJS+"\n;true", nil)
	}
	var violations []struct {
		Rule, Impact, Help string
		Nodes              []string
	}
	tab.Eval(axeRunJS, &violations)
	for _, v := range violations {
		tab.t.Errorf("%s: %s is not accessible: %s (%s, %s)\n\t%s",
			tab.view.Name, tab.URL(), v.Help, v.Rule, v.Impact, strings.Join(v.Nodes, "\n\t"))
	}
}
