package browser

import (
	_ "embed"
	"strings"
)

// axeJS is axe-core 4.14.1 of Deque Systems, from the npm package of that name. axe/LICENSE is its
// licence. Only tests contain it.
//
//go:embed axe/axe.min.js
var axeJS string

// axeRunJS runs every rule for WCAG 2.2 A and AA and the best practices, including rules that are
// disabled by default.
const axeRunJS = `axe.run(document, {
	runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22a', 'wcag22aa', 'best-practice'],
	rules: { 'target-size': { enabled: true } },
	resultTypes: ['violations'], preload: false, elementRef: false,
}).then(r => r.violations.map(v => ({
	rule: v.id, impact: v.impact, help: v.help,
	nodes: v.nodes.slice(0, 5).map(n => n.html.slice(0, 300) + ' — ' + n.failureSummary.replace(/\s+/g, ' ')),
})))`

// Accessible fails the test with every violation of accessibility rules that axe-core finds on the
// page. It also finds text that is larger than its element, and links and buttons that are
// covered. The tab must run scripts.
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
	var faults []string
	tab.Eval(overflowJS, &faults)
	for _, s := range faults {
		tab.t.Errorf("%s: on %s an element overflows or is covered: %s", tab.view.Name, tab.URL(), s)
	}
}

// overflowJS returns the elements whose content is wider than the element itself. It also returns the visible links and
// buttons that another element covers.
const overflowJS = `(() => {
	// What is for screen readers only is a point to the eye.
	const clipped = e => e && (e.clientWidth <= 1 && getComputedStyle(e).overflowX === 'hidden' || clipped(e.parentElement));
	const seen = [...document.querySelectorAll('body *')].filter(e => e.checkVisibility() && e.getClientRects().length && !e.closest('svg, canvas, .uplot') && !clipped(e));
	const overflowing = seen.filter(e => e.clientWidth && e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX === 'visible');
	const covered = seen.filter(e => e.matches('a, button, input, select, textarea')).filter(e => {
		const r = e.getClientRects()[0], x = r.left + r.width / 2, y = r.top + r.height / 2;
		if (r.left < 0 || r.right > innerWidth || r.top < 0 || r.bottom > innerHeight) return false;
		const top = document.elementFromPoint(x, y);
		return !top || !e.contains(top) && !top.contains(e) && ![...e.labels || []].some(l => l.contains(top));
	});
	return [...overflowing, ...covered].slice(0, 5).map(e => e.outerHTML.slice(0, 200));
})()`
