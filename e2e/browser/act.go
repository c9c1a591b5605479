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

// literal returns a value as JavaScript writes it.
func literal(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // only strings, numbers and lists of them are given
	}
	return string(b)
}

// await polls until f returns true. What f returns as an error is how it stands
// meanwhile: the page may be on its way to another.
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
				err = errors.New("it did not come")
			}
			tab.fatal("%s: %v", what, err)
		}
	}
}

// eval evaluates an expression; a promise is waited for.
func (tab *Tab) eval(expression string, result any) error {
	return tab.run(chromedp.Evaluate(expression, result, func(p *runtime.EvaluateParams) *runtime.EvaluateParams {
		return p.WithAwaitPromise(true)
	}))
}

// Eval evaluates an expression in the page and stores what it gives, through JSON.
func (tab *Tab) Eval(expression string, result any) {
	tab.t.Helper()
	if err := tab.eval(expression, result); err != nil {
		tab.fatal("%s: %v", expression, err)
	}
}

// Await waits until an expression is true in the page.
func (tab *Tab) Await(what, expression string) {
	tab.t.Helper()
	tab.await(what, func() (bool, error) {
		var ok bool
		err := tab.eval("Boolean("+expression+")", &ok)
		return ok, err
	})
}

// with evaluates an expression over the element e.
func with(what, expression string) string {
	return fmt.Sprintf(`(() => { const found = (%s)(%s); if (!found.length) return null; const e = found[0].e, visible = found[0].visible; return %s; })()`,
		strings.TrimSpace(findJS), literal(what), expression)
}

// leaving carries out what leads to another page, and returns when that one has loaded. It
// must answer with one of the statuses, 200 where none is given.
func (tab *Tab) leaving(what string, leave func() error, statuses []int) {
	tab.t.Helper()
	tab.leave(what, leave)
	tab.arrived(what, statuses)
}

func (tab *Tab) leave(what string, leave func() error) {
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

// arrived looks at the page that has just loaded.
func (tab *Tab) arrived(what string, statuses []int) {
	tab.t.Helper()
	if len(statuses) == 0 {
		statuses = []int{200}
	}
	var status int
	tab.Eval(`performance.getEntriesByType('navigation')[0].responseStatus`, &status)
	if !slices.Contains(statuses, status) {
		tab.fatal("%s: answered %d, want %v", what, status, statuses)
	}
	tab.settled()
}

// settled looks at the page as it stands.
func (tab *Tab) settled() {
	tab.t.Helper()
	tab.searchSecrets()
	var wide string
	tab.Eval(tooWideJS, &wide)
	if wide != "" {
		tab.t.Errorf("%s: %s scrolls sideways, because of %s", tab.view.Name, tab.URL(), wide)
	}
	tab.report()
}

// tooWideJS gives what makes a page wider than its window, "" for nothing.
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

// Go opens a page: a path of the site, or a whole URL. It must answer with one of the
// statuses, 200 where none is given.
func (tab *Tab) Go(target string, statuses ...int) {
	tab.t.Helper()
	if strings.HasPrefix(target, "/") {
		target = tab.site + target
	}
	tab.leaving("opening "+target, func() error { return tab.run(navigate(target)) }, statuses)
}

// navigate goes to a URL.
func navigate(target string) chromedp.Action {
	return chromedp.ActionFunc(func(ctx context.Context) error {
		_, _, text, _, err := page.Navigate(target).Do(ctx)
		if err == nil && text != "" {
			err = errors.New(text)
		}
		return err
	})
}

// Reload loads the page again, as a person does: where it answered a form, that is sent again.
func (tab *Tab) Reload(statuses ...int) {
	tab.t.Helper()
	tab.leaving("reloading", func() error { return tab.run(page.Reload()) }, statuses)
}

// Back goes to the page before. Where that answered a form and may not be kept, the browser
// asks whether to send it again, which counts as status 0.
func (tab *Tab) Back(statuses ...int) {
	tab.t.Helper()
	tab.leaving("going back", func() error { return tab.eval("history.back()", nil) }, statuses)
}

// Click clicks on an element when it is there, can be seen and lies under nothing.
func (tab *Tab) Click(what string) {
	tab.t.Helper()
	if err := tab.click(what); err != nil {
		tab.fatal("clicking on %s: %v", what, err)
	}
}

// Follow clicks on what leads to another page, and returns when that has loaded. It must
// answer with one of the statuses, 200 where none is given.
func (tab *Tab) Follow(what string, statuses ...int) {
	tab.t.Helper()
	tab.See(what)
	tab.leaving("clicking on "+what, func() error { return tab.click(what) }, statuses)
}

func (tab *Tab) click(what string) error {
	var at struct {
		X, Y    float64
		Covered string
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(15 * time.Millisecond) {
		// The middle of its first line: a link may be broken over two.
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
			err = fmt.Errorf("it lies under %s", at.Covered)
		} else if err == nil {
			err = errors.New("it is not there, not visible or disabled")
		}
		if time.Now().After(deadline) {
			return err
		}
	}
	return tab.run(chromedp.MouseClickXY(at.X, at.Y))
}

// Fill types into a field, in place of what stands there; of a select it chooses the
// option that has this value or says this.
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
		if (e.readOnly || e.disabled) return 'it can not be written to';
		e.select ? e.select() : 0;
		return 'type';
	})()`), &left)
	if left == "" {
		return
	}
	if left != "type" {
		tab.fatal("filling %s with %q: %s", what, value, left)
	}
	// Dates and the like take no typed text in one piece.
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

// Check sets a box or a radio button, by a click where it is not so yet.
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

// Press presses keys, one after the other, wherever the focus is: text, or keys of package
// kb such as kb.Tab.
func (tab *Tab) Press(keys string) {
	tab.t.Helper()
	tab.must("pressing keys", chromedp.KeyEvent(keys))
}

// Submit presses keys that lead to another page, and returns when that has loaded.
func (tab *Tab) Submit(keys string, statuses ...int) {
	tab.t.Helper()
	tab.leaving("pressing keys", func() error { return tab.run(chromedp.KeyEvent(keys)) }, statuses)
}

// Expect says that a dialogue will come while f runs, and how it is answered, and fails
// where none comes. It returns when it has come.
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

// Tolerate says that what a page asks for beside may be answered with this status from now on.
func (tab *Tab) Tolerate(status int) {
	tab.mu.Lock()
	tab.tolerated = int64(status)
	tab.mu.Unlock()
}

// MayLeave says that the tab may go to pages of other sites from now on.
func (tab *Tab) MayLeave() {
	tab.mu.Lock()
	tab.foreign = true
	tab.mu.Unlock()
}

// Enter opens a page that leads on by itself, and returns when an element is there.
func (tab *Tab) Enter(target, until string) {
	tab.t.Helper()
	if err := tab.run(navigate(target)); err != nil {
		tab.fatal("opening %s: %v", target, err)
	}
	tab.See(until)
	tab.Await("the page", `document.readyState === 'complete'`)
	tab.settled()
}

// AllowClipboard lets pages use the clipboard, which all tabs share: a test that looks at it
// is best the only one.
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

// Ignore says that what goes wrong in the tab from now on is nobody's fault: it is on a page
// that tries to do harm.
func (tab *Tab) Ignore() {
	tab.mu.Lock()
	tab.ignoring = true
	tab.mu.Unlock()
}
