package browser

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/cdproto/security"
	"github.com/chromedp/chromedp"
)

// View is on what a page is seen.
type View struct {
	// Name says in messages which view it is.
	Name string
	// Width and Height in CSS pixels.
	Width, Height int64
	// Phone says that it is touched, and that its user agent calls it mobile.
	Phone bool
	// Dark says that its person prefers dark pages.
	Dark bool
	// NoScript says that scripts are off.
	NoScript bool
	// Trusting says that any certificate will do.
	Trusting bool
	// Zone is the reader's time zone, such as "Asia/Tokyo". "": UTC.
	Zone string
}

// Views that tests share.
var (
	Desktop = View{Name: "desktop", Width: 1280, Height: 800}
	Phone   = View{Name: "phone", Width: 390, Height: 844, Phone: true}
)

// InDark returns the view of one who prefers dark pages.
func (v View) InDark() View { v.Name += " dark"; v.Dark = true; return v }

// WithoutScript returns the view of one whose browser runs no scripts.
func (v View) WithoutScript() View { v.Name += " without scripts"; v.NoScript = true; return v }

// Insecure returns the view of one whose browser takes any certificate.
func (v View) Insecure() View { v.Trusting = true; return v }

// Tab is one page's place in the browser. Its methods end the test where what they ask for
// does not come. It is for one goroutine.
type Tab struct {
	t   testing.TB
	ctx context.Context
	// profile is whose cookies and storage it has.
	profile cdp.BrowserContextID
	view    View
	// site is where relative targets lead, such as "http://127.0.0.1:8080".
	site string

	mu sync.Mutex
	// problems are what went wrong since they were last reported.
	problems []string
	requests []Request
	// urls are those of requests, by id.
	urls map[network.RequestID]string
	// dialog answers the next one; nil where none is expected.
	dialog  *bool
	dialogs []string
	// tolerated is a status that a request beside the page may get.
	tolerated int64
	// ignoring says that nothing that goes wrong counts.
	ignoring bool
	// foreign says that the tab may leave the site.
	foreign bool
	// secrets may appear nowhere any more.
	secrets []string
}

// Request is one that the tab made.
type Request struct {
	Method, URL string
	// Document says that it was for a page.
	Document bool
}

// New opens a tab in which site is the only one that may be asked for anything. The
// test's end closes it.
func New(t testing.TB, site string, v View) *Tab {
	t.Helper()
	p, err := browser()
	if err != nil {
		t.Fatal(err)
	}
	profile, id, err := p.open()
	if err != nil {
		t.Fatalf("opening a tab: %v", err)
	}
	ctx, cancel := chromedp.NewContext(p.ctx, chromedp.WithTargetID(id))
	tab := &Tab{t: t, ctx: ctx, profile: profile, view: v, site: site, urls: map[network.RequestID]string{}}
	t.Cleanup(func() {
		tab.report()
		cancel()
		p.dispose(profile)
	})
	chromedp.ListenTarget(ctx, tab.hear)
	zone := v.Zone
	if zone == "" {
		zone = "UTC"
	}
	actions := append(v.seen(),
		emulation.SetTimezoneOverride(zone),
		emulation.SetScriptExecutionDisabled(v.NoScript),
		emulation.SetFocusEmulationEnabled(true),
		security.SetIgnoreCertificateErrors(v.Trusting),
	)
	// The first call makes the tab, for which its context must be without a deadline.
	if err := chromedp.Run(ctx, actions...); err != nil {
		t.Fatalf("opening a tab: %v", err)
	}
	return tab
}

// seen are the actions that make a tab what the view says of its window.
func (v View) seen() []chromedp.Action {
	scheme := "light"
	if v.Dark {
		scheme = "dark"
	}
	return []chromedp.Action{
		emulation.SetDeviceMetricsOverride(v.Width, v.Height, 1, v.Phone),
		emulation.SetTouchEmulationEnabled(v.Phone),
		emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: scheme},
			// What moves can't be compared, clicked, or looked at for contrast.
			{Name: "prefers-reduced-motion", Value: "reduce"},
		}),
	}
}

// Become shows the page that is there on another view: its size, touch and colours. Zone and
// scripts stay as they are.
func (tab *Tab) Become(v View) {
	tab.t.Helper()
	v.Zone, v.NoScript = tab.view.Zone, tab.view.NoScript
	tab.view = v
	tab.must("another view", v.seen()...)
	tab.Await("the other view", fmt.Sprintf(`innerWidth === %d && matchMedia('(prefers-color-scheme: dark)').matches === %v`, v.Width, v.Dark))
	tab.settled()
}

// View returns what the tab's pages are seen on.
func (tab *Tab) View() View { return tab.view }

// hear is told of all that happens in the tab. It must not block, nor call the browser.
func (tab *Tab) hear(event any) {
	tab.mu.Lock()
	defer tab.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		tab.wrong("an exception: %v", e.ExceptionDetails)
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.APITypeError || e.Type == runtime.APITypeWarning || e.Type == runtime.APITypeAssert {
			var said []string
			for _, a := range e.Args {
				said = append(said, strings.Trim(string(a.Value), `"`)+a.Description)
			}
			tab.wrong("in the console (%s): %s", e.Type, strings.Join(said, " "))
		}
	case *log.EventEntryAdded:
		// Requests that failed are heard of otherwise.
		if e.Entry.Source != log.SourceNetwork && (e.Entry.Level == log.LevelError || e.Entry.Level == log.LevelWarning) {
			tab.wrong("in the console (%s): %s %s", e.Entry.Source, e.Entry.Text, e.Entry.URL)
		}
	case *network.EventRequestWillBeSent:
		tab.asked(e)
	case *network.EventResponseReceived:
		if e.Response.Status >= 400 && e.Type != network.ResourceTypeDocument && e.Response.Status != tab.tolerated {
			tab.wrong("%s answered %d", e.Response.URL, e.Response.Status)
		}
	case *network.EventLoadingFailed:
		// A page that is left gives up what it was still asking for; one that came of a form is not
		// shown again without asking.
		again := e.Type == network.ResourceTypeDocument && e.ErrorText == "net::ERR_CACHE_MISS"
		if !e.Canceled && e.ErrorText != "net::ERR_ABORTED" && !again {
			tab.wrong("%s failed: %s %s", tab.urls[e.RequestID], e.ErrorText, e.BlockedReason)
		}
	case *page.EventJavascriptDialogOpening:
		tab.asksBack(e)
	}
}

// wrong notes a problem.
func (tab *Tab) wrong(format string, args ...any) {
	if what := fmt.Sprintf(format, args...); !slices.Contains(tab.problems, what) {
		tab.problems = append(tab.problems, what)
	}
}

// asked hears of a request that the tab makes.
func (tab *Tab) asked(e *network.EventRequestWillBeSent) {
	// Without the fragment, which is sent to nobody.
	target := e.Request.URL
	tab.urls[e.RequestID] = target
	document := e.Type == network.ResourceTypeDocument
	tab.requests = append(tab.requests, Request{Method: e.Request.Method, URL: target, Document: document})
	u, err := url.Parse(target)
	if err == nil && (u.Scheme == "http" || u.Scheme == "https" || u.Scheme == "ws" || u.Scheme == "wss") {
		if u.Scheme+"://"+u.Host != tab.site && !(document && tab.foreign) {
			tab.wrong("another site is asked: %s", target)
		}
	}
	for _, secret := range tab.secrets {
		if strings.Contains(target, secret) {
			tab.wrong("a secret is in a request's URL: %s", target)
		}
		for _, name := range []string{"Referer", "Cookie"} {
			if value, _ := e.Request.Headers[name].(string); strings.Contains(value, secret) {
				tab.wrong("a secret is in the %s of a request to %s", name, target)
			}
		}
	}
}

// asksBack answers a dialogue.
func (tab *Tab) asksBack(e *page.EventJavascriptDialogOpening) {
	tab.dialogs = append(tab.dialogs, string(e.Type))
	accept := true
	if tab.dialog == nil {
		tab.wrong("a dialogue (%s) that nobody expected: %s", e.Type, e.Message)
	} else {
		accept = *tab.dialog
	}
	c := chromedp.FromContext(tab.ctx)
	go func() {
		// It fails only where the tab is gone.
		_ = page.HandleJavaScriptDialog(accept).Do(cdp.WithExecutor(tab.ctx, c.Target))
	}()
}

// report fails the test with what went wrong in the tab since it was last called.
func (tab *Tab) report() {
	tab.t.Helper()
	tab.mu.Lock()
	problems := tab.problems
	tab.problems = nil
	tab.mu.Unlock()
	if tab.ignoring {
		return
	}
	for _, p := range problems {
		tab.t.Errorf("%s: %s", tab.view.Name, p)
	}
}

// run carries actions out.
func (tab *Tab) run(actions ...chromedp.Action) error {
	ctx, cancel := context.WithTimeout(tab.ctx, patience)
	defer cancel()
	return chromedp.Run(ctx, actions...)
}

// must carries actions out, and ends the test where they fail.
func (tab *Tab) must(what string, actions ...chromedp.Action) {
	tab.t.Helper()
	if err := tab.run(actions...); err != nil {
		tab.fatal("%s: %v", what, err)
	}
}

// fatal ends the test, saying where the tab is.
func (tab *Tab) fatal(format string, args ...any) {
	tab.t.Helper()
	tab.report()
	var at, text string
	_ = tab.run(chromedp.Evaluate(`location.href`, &at), chromedp.Evaluate(`document.body ? document.body.innerText : ""`, &text))
	tab.t.Fatalf("%s, at %s: %s\nThe page says:\n%s", tab.view.Name, at, fmt.Sprintf(format, args...), text)
}
