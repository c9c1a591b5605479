package browser

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/storage"
	"github.com/chromedp/chromedp"
)

// URL returns the URL of the page.
func (tab *Tab) URL() string {
	tab.t.Helper()
	var at string
	tab.Eval(`location.href`, &at)
	return at
}

// Path returns the path, query and fragment of the page's URL.
func (tab *Tab) Path() string {
	tab.t.Helper()
	var at string
	tab.Eval(`location.pathname + location.search + location.hash`, &at)
	return at
}

// See waits until an element is visible.
func (tab *Tab) See(what string) {
	tab.t.Helper()
	tab.Await("to see "+what, with(what, `visible`))
}

// Sees reports whether an element is visible now.
func (tab *Tab) Sees(what string) bool {
	tab.t.Helper()
	var is *bool
	tab.Eval(with(what, `visible`), &is)
	return is != nil && *is
}

// Text returns the visible text of an element. It waits for the element.
func (tab *Tab) Text(what string) string {
	tab.t.Helper()
	tab.See(what)
	var text string
	tab.Eval(with(what, `e.innerText`), &text)
	return strings.TrimSpace(text)
}

// Value returns the value of a field. It waits for the field.
func (tab *Tab) Value(what string) string {
	tab.t.Helper()
	tab.See(what)
	var value string
	tab.Eval(with(what, `e.value`), &value)
	return value
}

// Enabled reports whether a field or button is enabled. It waits for the element.
func (tab *Tab) Enabled(what string) bool {
	tab.t.Helper()
	tab.See(what)
	var is bool
	tab.Eval(with(what, `!e.disabled`), &is)
	return is
}

// ErrorOf returns the error message of the field with this name, or "" if the field is not marked
// as invalid. The message is the text of the error elements that describe the field.
func (tab *Tab) ErrorOf(name string) string {
	tab.t.Helper()
	var text string
	tab.Eval(`(() => {
		const e = document.getElementsByName(`+literal(name)+`)[0];
		if (!e || e.getAttribute('aria-invalid') !== 'true') return '';
		const by = (e.getAttribute('aria-describedby') || '').split(/\s+/).map(id => document.getElementById(id));
		return by.filter(d => d && d.classList.contains('error') && d.checkVisibility()).map(d => d.innerText).join(' ');
	})()`, &text)
	return text
}

// Has waits until the page shows each of the texts.
func (tab *Tab) Has(texts ...string) {
	tab.t.Helper()
	for _, text := range texts {
		tab.Await("the page to show "+text, saysJS(text))
	}
}

// Says reports whether the page shows a text now.
func (tab *Tab) Says(text string) bool {
	tab.t.Helper()
	var is bool
	tab.Eval(saysJS(text), &is)
	return is
}

func saysJS(text string) string {
	return `document.body.innerText.replace(/\s+/g, ' ').includes(` + literal(strings.Join(strings.Fields(text), " ")) + `)`
}

// HTML returns the current HTML of the page.
func (tab *Tab) HTML() string {
	tab.t.Helper()
	var html string
	tab.Eval(`document.documentElement.outerHTML`, &html)
	return html
}

// Focused returns the label, text or name of the element that has the focus, or "".
func (tab *Tab) Focused() string {
	tab.t.Helper()
	var what string
	tab.Eval(`(() => {
		const e = document.activeElement;
		if (!e || e === document.body) return '';
		return (e.labels?.[0]?.textContent || e.getAttribute('aria-label') || e.innerText || e.name || e.id || e.tagName).replace(/\s+/g, ' ').trim();
	})()`, &what)
	return what
}

// Requests returns the requests that the tab has sent so far.
func (tab *Tab) Requests() []Request {
	tab.mu.Lock()
	defer tab.mu.Unlock()
	return slices.Clone(tab.requests)
}

// Cookies returns the cookies of the tab, including those that scripts can't read.
func (tab *Tab) Cookies() (cookies []*network.Cookie) {
	tab.t.Helper()
	tab.must("reading the cookies", chromedp.ActionFunc(func(ctx context.Context) (err error) {
		whole := cdp.WithExecutor(ctx, chromedp.FromContext(ctx).Browser)
		cookies, err = storage.GetCookies().WithBrowserContextID(tab.profile).Do(whole)
		return err
	}))
	return cookies
}

// SetCookie sets a cookie for the site.
func (tab *Tab) SetCookie(name, value string) {
	tab.t.Helper()
	tab.must("setting a cookie", network.SetCookie(name, value).WithURL(tab.site))
}

// Forbid forbids a secret from now on. Each following page is searched for the secret, and so are
// its URL and the tab's history, storage, cookies and requests.
func (tab *Tab) Forbid(secret string) {
	tab.t.Helper()
	tab.mu.Lock()
	tab.secrets = append(tab.secrets, secret)
	for _, r := range tab.requests {
		if strings.Contains(r.URL, secret) {
			tab.addProblem("a secret is in a request's URL: %s", r.URL)
		}
	}
	tab.mu.Unlock()
}

// searchSecrets searches for forbidden secrets everywhere a page can leave data.
func (tab *Tab) searchSecrets() {
	tab.t.Helper()
	tab.mu.Lock()
	secrets := slices.Clone(tab.secrets)
	tab.mu.Unlock()
	if len(secrets) == 0 {
		return
	}
	places := map[string]string{"page": tab.HTML()}
	var kept string
	tab.Eval(`JSON.stringify([location.protocol.startsWith('http') ? [{...localStorage}, {...sessionStorage}] : [], history.state, window.name,
		[...document.querySelectorAll('input, textarea')].map(e => e.value)])`, &kept)
	places["storage, state or fields"] = kept
	for _, c := range tab.Cookies() {
		places["cookies"] += c.Name + "=" + c.Value + "\n"
	}
	tab.must("reading the history", chromedp.ActionFunc(func(ctx context.Context) error {
		_, entries, err := page.GetNavigationHistory().Do(ctx)
		for _, e := range entries {
			places["history"] += e.URL + " " + e.UserTypedURL + " " + e.Title + "\n"
		}
		return err
	}))
	for where, text := range places {
		for _, secret := range secrets {
			if strings.Contains(text, secret) {
				tab.t.Errorf("%s: a secret is in the %s at %s", tab.view.Name, where, tab.URL())
			}
		}
	}
}

// Drawn reports whether the page has a visible canvas, and something is drawn on every visible
// one.
func (tab *Tab) Drawn() bool {
	tab.t.Helper()
	var drawn bool
	tab.Eval(`(() => {
		const all = [...document.querySelectorAll('canvas')].filter(c => c.checkVisibility());
		return all.length > 0 && all.every(c => c.width && c.height && new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer).some(p => p));
	})()`, &drawn)
	return drawn
}

// Picture writes a screenshot to a PNG file. With whole, it shows the whole page and not only the
// window.
func (tab *Tab) Picture(file string, whole bool) {
	tab.t.Helper()
	var picture []byte
	take := chromedp.CaptureScreenshot(&picture)
	if whole {
		take = chromedp.FullScreenshot(&picture, 100)
	}
	tab.must("taking a picture", take)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		tab.t.Fatal(err)
	}
	if err := os.WriteFile(file, picture, 0o644); err != nil {
		tab.t.Fatal(err)
	}
}

// Attribute returns an attribute of an element, or "" if the element does not have it. It waits
// for the element, which need not be visible.
func (tab *Tab) Attribute(what, name string) string {
	tab.t.Helper()
	tab.Await(what, with(what, `true`))
	var value string
	tab.Eval(with(what, `e.getAttribute(`+literal(name)+`) || ''`), &value)
	return value
}
