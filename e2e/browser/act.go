package browser

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	cdpbrowser "github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

//go:embed find.js
var findJS string

// literal returns a value as a JavaScript literal.
func literal(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // Encoding never fails, because callers pass only strings, numbers, booleans and lists of them.
	}
	return string(b)
}

// await calls f until it returns true without an error, and ends the test after patience. Errors
// of f are expected while the tab navigates to another page.
func (tab *Tab) await(what string, f func() (bool, error)) {
	tab.t.Helper()
	var err error
	var ok bool
	for deadline := time.Now().Add(patience); ; time.Sleep(15 * time.Millisecond) {
		if ok, err = f(); ok && err == nil {
			return
		}
		if time.Now().After(deadline) || tab.ctx.Err() != nil {
			if err == nil {
				err = errors.New("the event did not come")
			}
			tab.fatal("%s: %v", what, err)
		}
	}
}

// eval evaluates a JavaScript expression and stores its value in result. It waits for a promise.
func (tab *Tab) eval(expression string, result any) error {
	return tab.run(chromedp.Evaluate(expression, result, func(p *runtime.EvaluateParams) *runtime.EvaluateParams {
		return p.WithAwaitPromise(true)
	}))
}

// Eval evaluates a JavaScript expression in the page and stores its value in result, by way of
// JSON.
func (tab *Tab) Eval(expression string, result any) {
	tab.t.Helper()
	if err := tab.eval(expression, result); err != nil {
		tab.fatal("%s: %v", expression, err)
	}
}

// Await waits until a JavaScript expression is true in the page.
func (tab *Tab) Await(what, expression string) {
	tab.t.Helper()
	tab.await(what, func() (bool, error) {
		var ok bool
		err := tab.eval("Boolean("+expression+")", &ok)
		return ok, err
	})
}

// with returns JavaScript that evaluates expression, in which the variable e is the element what. The result is null if there
// is no such element.
func with(what, expression string) string {
	return fmt.Sprintf(`(() => { const found = (%s)(%s); if (!found.length) return null; const e = found[0].e, visible = found[0].visible; return %s; })()`,
		strings.TrimSpace(findJS), literal(what), expression)
}

// navigateBy runs an action that opens another page, and returns when that page has loaded. The
// page must have one of the statuses; without statuses, 200.
func (tab *Tab) navigateBy(what string, leave func() error, statuses []int) {
	tab.t.Helper()
	tab.waitForNextPage(what, leave)
	tab.checkResponse(what, statuses)
}

func (tab *Tab) waitForNextPage(what string, leave func() error) {
	tab.t.Helper()
	mark := literal(fmt.Sprint("left ", time.Now().UnixNano()))
	if err := tab.eval("window.keygateLeft = "+mark, nil); err != nil {
		tab.fatal("%s: %v", what, err)
	}
	if err := leave(); err != nil {
		tab.fatal("%s: %v", what, err)
	}
	tab.await(what+": the next page", func() (bool, error) {
		var there bool
		err := tab.eval("window.keygateLeft !== "+mark+" && document.readyState === 'complete'", &there)
		return there, err
	})
}

// checkResponse checks the status of the page that has just loaded, and then the page.
func (tab *Tab) checkResponse(what string, statuses []int) {
	tab.t.Helper()
	if len(statuses) == 0 {
		statuses = []int{200}
	}
	var status int
	tab.Eval(`performance.getEntriesByType('navigation')[0].responseStatus`, &status)
	if !slices.Contains(statuses, status) {
		tab.fatal("%s: answered %d, want %v", what, status, statuses)
	}
	tab.checkPage()
}

// checkPage checks the page as it is now: it shows no forbidden secret, and does not scroll
// sideways.
func (tab *Tab) checkPage() {
	tab.t.Helper()
	tab.searchSecrets()
	var wide string
	tab.Eval(tooWideJS, &wide)
	if wide != "" {
		tab.t.Errorf("%s: %s scrolls sideways, because of %s", tab.view.Name, tab.URL(), wide)
	}
	tab.report()
}

// tooWideJS returns the elements that make a page wider than its window, or "".
const tooWideJS = `(() => {
	const width = document.documentElement.clientWidth;
	if (document.documentElement.scrollWidth <= width) return '';
	const out = e => {
		const r = e.getBoundingClientRect(), inner = getComputedStyle(e).overflowX === 'visible' ? r.left + e.scrollWidth : 0;
		return Math.max(r.right, inner) > width + 1;
	};
	const widest = [...document.querySelectorAll('body *')].filter(e => out(e) && ![...e.children].some(out));
	return widest.slice(0, 3).map(e => e.outerHTML.slice(0, 160)).join(' and ') || 'the page itself';
})()`

// Go opens a path of the site, or a whole URL. The page must have one of the statuses; without
// statuses, 200.
func (tab *Tab) Go(target string, statuses ...int) {
	tab.t.Helper()
	if strings.HasPrefix(target, "/") {
		target = tab.site + target
	}
	tab.navigateBy("opening "+target, func() error { return tab.run(navigate(target)) }, statuses)
}

// navigate opens a URL.
func navigate(target string) chromedp.Action {
	return chromedp.ActionFunc(func(ctx context.Context) error {
		_, _, text, _, err := page.Navigate(target).Do(ctx)
		if err == nil && text != "" {
			err = errors.New(text)
		}
		return err
	})
}

// Reload reloads the page as a person does. If the page is the response to a form, the browser
// sends the form again.
func (tab *Tab) Reload(statuses ...int) {
	tab.t.Helper()
	tab.navigateBy("reloading", func() error { return tab.run(page.Reload()) }, statuses)
}

// Back goes to the previous page. If that page is the response to a form and may not be cached,
// the browser asks whether to send the form again. That question counts as status 0.
func (tab *Tab) Back(statuses ...int) {
	tab.t.Helper()
	tab.navigateBy("going back", func() error {
		err := tab.eval("history.back()", nil)
		if err != nil && strings.Contains(err.Error(), "Inspected target navigated or closed") {
			return nil // The page ended before the browser reported the result of the call.
		}
		return err
	}, statuses)
}

// Click clicks on an element as soon as it is present, visible and not covered by another element.
func (tab *Tab) Click(what string) {
	tab.t.Helper()
	if err := tab.click(what); err != nil {
		tab.fatal("clicking on %s: %v", what, err)
	}
}

// Follow clicks on an element that opens another page, and returns when that page has loaded. The
// page must have one of the statuses; without statuses, 200.
func (tab *Tab) Follow(what string, statuses ...int) {
	tab.t.Helper()
	tab.See(what)
	tab.navigateBy("clicking on "+what, func() error { return tab.click(what) }, statuses)
}

func (tab *Tab) click(what string) error {
	var at struct {
		X, Y    float64
		Covered string
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(15 * time.Millisecond) {
		// The click goes to the middle of the element's first line, since a link may extend over
		// two lines.
		var found *json.RawMessage
		err := tab.eval(with(what, `(() => {
			if (!visible || e.disabled) return null;
			e.scrollIntoView({ block: 'center', inline: 'nearest', behavior: 'instant' });
			const r = e.getClientRects()[0], x = r.left + r.width / 2, y = r.top + r.height / 2;
			const top = document.elementFromPoint(x, y);
			const hit = top && (e.contains(top) || [...e.labels || []].some(l => l.contains(top)));
			return { x, y, covered: hit ? '' : top ? top.outerHTML.slice(0, 200) : 'the edge of the window' };
		})()`), &found)
		if err == nil && found != nil {
			if err = json.Unmarshal(*found, &at); err == nil && at.Covered == "" {
				break
			}
			err = fmt.Errorf("it is covered by %s", at.Covered)
		} else if err == nil {
			err = errors.New("it is missing, not visible or disabled")
		}
		if time.Now().After(deadline) {
			return err
		}
	}
	return tab.run(chromedp.MouseClickXY(at.X, at.Y))
}

// Fill replaces the text of a field by value. In a select, it chooses the option with this value
// or this text.
func (tab *Tab) Fill(what, value string) {
	tab.t.Helper()
	tab.See(what)
	var left string
	tab.Eval(with(what, `(() => {
		const value = `+literal(value)+`;
		e.focus();
		if (e.tagName === 'SELECT') {
			const o = [...e.options].find(o => o.value === value) || [...e.options].find(o => o.text.trim() === value) || [...e.options].find(o => o.text.trim().startsWith(value));
			if (!o) return 'there is no such option among ' + [...e.options].map(o => o.text.trim()).join(', ');
			e.value = o.value;
			e.dispatchEvent(new Event('input', { bubbles: true }));
			e.dispatchEvent(new Event('change', { bubbles: true }));
			return '';
		}
		if (e.readOnly || e.disabled) return 'it is read-only or disabled';
		e.select ? e.select() : 0;
		return 'type';
	})()`), &left)
	if left == "" {
		return
	}
	if left != "type" {
		tab.fatal("filling %s with %q: %s", what, value, left)
	}
	// Fields for dates, numbers and colours do not accept typed text in one piece.
	tab.Eval(with(what, `(() => {
		if (!['date', 'datetime-local', 'time', 'number', 'color'].includes(e.type)) return false;
		e.value = `+literal(value)+`;
		e.dispatchEvent(new Event('input', { bubbles: true }));
		e.dispatchEvent(new Event('change', { bubbles: true }));
		return true;
	})() ? 'set' : 'type'`), &left)
	if left == "set" {
		return
	}
	if value == "" {
		tab.Eval(with(what, `(e.value = '', e.dispatchEvent(new Event('input', { bubbles: true })), '')`), nil)
		return
	}
	tab.must("filling "+what, input.InsertText(value))
}

// Check sets or clears a checkbox or radio button, with a click if its state differs.
func (tab *Tab) Check(what string, on bool) {
	tab.t.Helper()
	tab.See(what)
	var is bool
	tab.Eval(with(what, `e.checked`), &is)
	if is != on {
		tab.Click(what)
		tab.Await(what+" to change", with(what, fmt.Sprintf(`e.checked === %v`, on)))
	}
}

// Press presses keys one after the other, wherever the focus is. keys holds text and keys of
// package kb, such as kb.Tab.
func (tab *Tab) Press(keys string) {
	tab.t.Helper()
	tab.must("pressing keys", chromedp.KeyEvent(keys))
}

// Submit presses keys that open another page, and returns when that page has loaded.
func (tab *Tab) Submit(keys string, statuses ...int) {
	tab.t.Helper()
	tab.navigateBy("pressing keys", func() error { return tab.run(chromedp.KeyEvent(keys)) }, statuses)
}

// Expect runs f, during which a dialogue of that kind must open, and accepts or dismisses the
// dialogue. It fails the test if none opens.
func (tab *Tab) Expect(kind string, accept bool, f func()) {
	tab.t.Helper()
	tab.mu.Lock()
	tab.dialog, tab.dialogs = &accept, nil
	tab.mu.Unlock()
	f()
	tab.await("a dialogue ("+kind+")", func() (bool, error) {
		tab.mu.Lock()
		defer tab.mu.Unlock()
		return slices.Contains(tab.dialogs, kind), nil
	})
	tab.mu.Lock()
	tab.dialog = nil
	tab.mu.Unlock()
}

// Tolerate allows requests of pages, other than for pages themselves, to be answered with this
// status from now on.
func (tab *Tab) Tolerate(status int) {
	tab.mu.Lock()
	tab.tolerated = int64(status)
	tab.mu.Unlock()
}

// MayLeave allows the tab to open pages of other sites from now on.
func (tab *Tab) MayLeave() {
	tab.mu.Lock()
	tab.foreign = true
	tab.mu.Unlock()
}

// Enter opens a page that redirects by a script, and returns when the element until is visible.
func (tab *Tab) Enter(target, until string) {
	tab.t.Helper()
	if err := tab.run(navigate(target)); err != nil {
		tab.fatal("opening %s: %v", target, err)
	}
	tab.See(until)
	tab.Await("the page", `document.readyState === 'complete'`)
	tab.checkPage()
}

// AllowClipboard allows pages to use the clipboard. All tabs share one clipboard, so only one test
// at a time can check it.
func (tab *Tab) AllowClipboard() {
	tab.t.Helper()
	tab.must("allowing the clipboard", chromedp.ActionFunc(func(ctx context.Context) error {
		whole := cdp.WithExecutor(ctx, chromedp.FromContext(ctx).Browser)
		for _, name := range []string{"clipboard-read", "clipboard-write"} {
			may := cdpbrowser.SetPermission(&cdpbrowser.PermissionDescriptor{Name: name}, cdpbrowser.PermissionSettingGranted)
			if err := may.WithOrigin(tab.site).WithBrowserContextID(tab.profile).Do(whole); err != nil {
				return err
			}
		}
		return nil
	}))
}

// Clipboard returns the clipboard's text.
func (tab *Tab) Clipboard() string {
	tab.t.Helper()
	var text string
	tab.Eval(`navigator.clipboard.readText()`, &text)
	return text
}

// Ignore makes the tab ignore all further problems, for pages that attack the console on purpose.
func (tab *Tab) Ignore() {
	tab.mu.Lock()
	tab.ignoring = true
	tab.mu.Unlock()
}
