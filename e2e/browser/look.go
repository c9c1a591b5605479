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

// URL returns where the tab is.
func (tab *Tab) URL() string {
	tab.t.Helper()
	var at string
	tab.Eval(`location.href`, &at)
	return at
}

// Path returns the path, query and fragment of where the tab is.
func (tab *Tab) Path() string {
	tab.t.Helper()
	var at string
	tab.Eval(`location.pathname + location.search + location.hash`, &at)
	return at
}

// See waits until an element is there and visible.
func (tab *Tab) See(what string) {
	tab.t.Helper()
	tab.Await("to see "+what, with(what, `visible`))
}

// Sees reports whether an element is there and visible now.
func (tab *Tab) Sees(what string) bool {
	tab.t.Helper()
	var is *bool
	tab.Eval(with(what, `visible`), &is)
	return is != nil && *is
}

// Text returns what an element says, as it is seen. It waits for the element.
func (tab *Tab) Text(what string) string {
	tab.t.Helper()
	tab.See(what)
	var text string
	tab.Eval(with(what, `e.innerText`), &text)
	return strings.TrimSpace(text)
}

// Value returns what stands in a field.
func (tab *Tab) Value(what string) string {
	tab.t.Helper()
	tab.See(what)
	var value string
	tab.Eval(with(what, `e.value`), &value)
	return value
}

// Enabled reports whether a field or button can be used. It waits for the element.
func (tab *Tab) Enabled(what string) bool {
	tab.t.Helper()
	tab.See(what)
	var is bool
	tab.Eval(with(what, `!e.disabled`), &is)
	return is
}

// ErrorOf returns what stands beside the field of this name as wrong: what the field says
// describes it, as far as it is marked as an error. "" where nothing is.
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

// Has waits until the page says a text.
func (tab *Tab) Has(texts ...string) {
	tab.t.Helper()
	for _, text := range texts {
		tab.Await("the page to say "+text, saysJS(text))
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

// HTML returns the page as it stands.
func (tab *Tab) HTML() string {
	tab.t.Helper()
	var html string
	tab.Eval(`document.documentElement.outerHTML`, &html)
	return html
}

// Focused returns what has the focus: its text, or its label, or its name.
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

// Requests returns what the tab has asked for so far.
func (tab *Tab) Requests() []Request {
	tab.mu.Lock()
	defer tab.mu.Unlock()
	return slices.Clone(tab.requests)
}

// Cookies returns the cookies that the tab holds, those that scripts can't read included.
func (tab *Tab) Cookies() (cookies []*network.Cookie) {
	tab.t.Helper()
	tab.must("reading the cookies", chromedp.ActionFunc(func(ctx context.Context) (err error) {
		whole := cdp.WithExecutor(ctx, chromedp.FromContext(ctx).Browser)
		cookies, err = storage.GetCookies().WithBrowserContextID(tab.profile).Do(whole)
		return err
	}))
	return cookies
}

// SetCookie gives the tab a cookie for the site.
func (tab *Tab) SetCookie(name, value string) {
	tab.t.Helper()
	tab.must("setting a cookie", network.SetCookie(name, value).WithURL(tab.site))
}

// Forbid says that from now on a secret may be nowhere in the tab: every page that follows
// is looked through, as are its address, the tab's history, its storage, its cookies and its requests.
func (tab *Tab) Forbid(secret string) {
	tab.t.Helper()
	tab.mu.Lock()
	tab.secrets = append(tab.secrets, secret)
	for _, r := range tab.requests {
		if strings.Contains(r.URL, secret) {
			tab.wrong("a secret is in a request's URL: %s", r.URL)
		}
	}
	tab.mu.Unlock()
}

// searchSecrets looks for secrets wherever a page can leave something.
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

// Drawn reports whether every canvas of the page, of which there must be some, has something
// drawn on it.
func (tab *Tab) Drawn() bool {
	tab.t.Helper()
	var drawn bool
	tab.Eval(`(() => {
		const all = [...document.querySelectorAll('canvas')].filter(c => c.checkVisibility());
		return all.length > 0 && all.every(c => c.width && c.height && new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer).some(p => p));
	})()`, &drawn)
	return drawn
}

// Picture writes what is seen to a PNG file; whole says that it is the page in its full
// length and not only the window.
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

// Attribute returns what an attribute of an element says; "" where it has none. It waits for the
// element, which need not be visible.
func (tab *Tab) Attribute(what, name string) string {
	tab.t.Helper()
	tab.Await(what, with(what, `true`))
	var value string
	tab.Eval(with(what, `e.getAttribute(`+literal(name)+`) || ''`), &value)
	return value
}
