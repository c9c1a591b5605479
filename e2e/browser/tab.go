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

// View describes the device and the settings with which a page is shown.
type View struct {
	// Name names the view in messages.
	Name string
	// Width and Height are in CSS pixels.
	Width, Height int64
	// Phone means that the screen is a touch screen of a mobile device.
	Phone bool
	// Dark means that the person prefers dark pages.
	Dark bool
	// NoScript means that scripts are disabled.
	NoScript bool
	// Trusting means that the browser accepts any certificate.
	Trusting bool
	// Zone is the person's time zone, such as "Asia/Tokyo". "": UTC.
	Zone string
}

// These are the views that most tests use.
var (
	Desktop = View{Name: "desktop", Width: 1280, Height: 800}
	Phone   = View{Name: "phone", Width: 390, Height: 844, Phone: true}
)

// InDark returns the view of a person who prefers dark pages.
func (v View) InDark() View { v.Name += " dark"; v.Dark = true; return v }

// WithoutScript returns the view of a browser that runs no scripts.
func (v View) WithoutScript() View { v.Name += " without scripts"; v.NoScript = true; return v }

// Insecure returns the view of a browser that accepts any certificate.
func (v View) Insecure() View { v.Trusting = true; return v }

// Tab is a tab of the browser. Its methods end the test if an element or event that they wait for
// does not come. Not safe for concurrent use.
type Tab struct {
	t   testing.TB
	ctx context.Context
	// profile is the browser profile with the tab's cookies and storage.
	profile cdp.BrowserContextID
	view    View
	// site is the origin for relative targets, such as "http://127.0.0.1:8080".
	site string

	mu sync.Mutex
	// problems are the problems since the last report.
	problems []string
	requests []Request
	// urls maps the ids of requests to their URLs.
	urls map[network.RequestID]string
	// dialog is the answer to the next dialogue; nil if no dialogue is expected.
	dialog  *bool
	dialogs []string
	// tolerated is a status with which requests other than for pages may be answered.
	tolerated int64
	// ignoring is true if problems are ignored.
	ignoring bool
	// foreign is true if the tab may open pages of other sites.
	foreign bool
	// secrets are the texts that may appear nowhere.
	secrets []string
}

// Request is a request that the tab sent.
type Request struct {
	Method, URL string
	// Document is true for the request of a page.
	Document bool
}

// New opens a tab that may send requests only to site. The tab is closed when the test ends.
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
	chromedp.ListenTarget(ctx, tab.handleEvent)
	zone := v.Zone
	if zone == "" {
		zone = "UTC"
	}
	actions := append(v.emulation(),
		emulation.SetTimezoneOverride(zone),
		emulation.SetScriptExecutionDisabled(v.NoScript),
		emulation.SetFocusEmulationEnabled(true),
		security.SetIgnoreCertificateErrors(v.Trusting),
	)
	// The first Run makes the tab. Its context must have no deadline, since the deadline would end
	// the tab.
	if err := chromedp.Run(ctx, actions...); err != nil {
		t.Fatalf("opening a tab: %v", err)
	}
	return tab
}

// emulation returns the actions that give a tab the size, touch screen and colour scheme of the
// view.
func (v View) emulation() []chromedp.Action {
	scheme := "light"
	if v.Dark {
		scheme = "dark"
	}
	return []chromedp.Action{
		emulation.SetDeviceMetricsOverride(v.Width, v.Height, 1, v.Phone),
		emulation.SetTouchEmulationEnabled(v.Phone),
		emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: scheme},
			// Moving elements can't be compared or clicked reliably.
			{Name: "prefers-reduced-motion", Value: "reduce"},
		}),
	}
}

// Become shows the current page with the size, touch screen and colours of another view. The time
// zone and scripts stay.
func (tab *Tab) Become(v View) {
	tab.t.Helper()
	v.Zone, v.NoScript = tab.view.Zone, tab.view.NoScript
	tab.view = v
	tab.must("another view", v.emulation()...)
	tab.Await("the other view", fmt.Sprintf(`innerWidth === %d && matchMedia('(prefers-color-scheme: dark)').matches === %v`, v.Width, v.Dark))
	tab.checkPage()
}

// View returns the tab's view.
func (tab *Tab) View() View { return tab.view }

// handleEvent receives all events of the tab. It must not block or call the browser.
func (tab *Tab) handleEvent(event any) {
	tab.mu.Lock()
	defer tab.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		tab.addProblem("an exception: %v", e.ExceptionDetails)
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.APITypeError || e.Type == runtime.APITypeWarning || e.Type == runtime.APITypeAssert {
			var said []string
			for _, a := range e.Args {
				said = append(said, strings.Trim(string(a.Value), `"`)+a.Description)
			}
			tab.addProblem("in the console (%s): %s", e.Type, strings.Join(said, " "))
		}
	case *log.EventEntryAdded:
		// Network events report failed requests, so their log entries are ignored.
		if e.Entry.Source != log.SourceNetwork && (e.Entry.Level == log.LevelError || e.Entry.Level == log.LevelWarning) {
			tab.addProblem("in the console (%s): %s %s", e.Entry.Source, e.Entry.Text, e.Entry.URL)
		}
	case *network.EventRequestWillBeSent:
		tab.recordRequest(e)
	case *network.EventResponseReceived:
		if e.Response.Status >= 400 && e.Type != network.ResourceTypeDocument && e.Response.Status != tab.tolerated {
			tab.addProblem("%s answered %d", e.Response.URL, e.Response.Status)
		}
	case *network.EventLoadingFailed:
		// When a tab leaves a page, the page's open requests are cancelled. A response to a form
		// is not shown again without a question, which counts as a cache miss.
		again := e.Type == network.ResourceTypeDocument && e.ErrorText == "net::ERR_CACHE_MISS"
		if !e.Canceled && e.ErrorText != "net::ERR_ABORTED" && !again {
			tab.addProblem("%s failed: %s %s", tab.urls[e.RequestID], e.ErrorText, e.BlockedReason)
		}
	case *page.EventJavascriptDialogOpening:
		tab.answerDialog(e)
	}
}

// addProblem records a problem once.
func (tab *Tab) addProblem(format string, args ...any) {
	if what := fmt.Sprintf(format, args...); !slices.Contains(tab.problems, what) {
		tab.problems = append(tab.problems, what)
	}
}

// recordRequest records a request, and checks its site and that it contains no forbidden secret.
func (tab *Tab) recordRequest(e *network.EventRequestWillBeSent) {
	// Browsers send the fragment to no server, and so this URL has none.
	target := e.Request.URL
	tab.urls[e.RequestID] = target
	document := e.Type == network.ResourceTypeDocument
	tab.requests = append(tab.requests, Request{Method: e.Request.Method, URL: target, Document: document})
	u, err := url.Parse(target)
	if err == nil && (u.Scheme == "http" || u.Scheme == "https" || u.Scheme == "ws" || u.Scheme == "wss") {
		if u.Scheme+"://"+u.Host != tab.site && !(document && tab.foreign) {
			tab.addProblem("a request goes to another site: %s", target)
		}
	}
	for _, secret := range tab.secrets {
		if strings.Contains(target, secret) {
			tab.addProblem("a secret is in a request's URL: %s", target)
		}
		for _, name := range []string{"Referer", "Cookie"} {
			if value, _ := e.Request.Headers[name].(string); strings.Contains(value, secret) {
				tab.addProblem("a secret is in the %s of a request to %s", name, target)
			}
		}
	}
}

// answerDialog accepts or dismisses a dialogue.
func (tab *Tab) answerDialog(e *page.EventJavascriptDialogOpening) {
	tab.dialogs = append(tab.dialogs, string(e.Type))
	accept := true
	if tab.dialog == nil {
		tab.addProblem("an unexpected dialogue (%s): %s", e.Type, e.Message)
	} else {
		accept = *tab.dialog
	}
	c := chromedp.FromContext(tab.ctx)
	go func() {
		// The call fails only if the tab is closed.
		_ = page.HandleJavaScriptDialog(accept).Do(cdp.WithExecutor(tab.ctx, c.Target))
	}()
}

// report fails the test with the problems since the last report.
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

// run runs actions, for at most patience.
func (tab *Tab) run(actions ...chromedp.Action) error {
	ctx, cancel := context.WithTimeout(tab.ctx, patience)
	defer cancel()
	return chromedp.Run(ctx, actions...)
}

// must runs actions, and ends the test if they fail.
func (tab *Tab) must(what string, actions ...chromedp.Action) {
	tab.t.Helper()
	if err := tab.run(actions...); err != nil {
		tab.fatal("%s: %v", what, err)
	}
}

// fatal ends the test with a message, the tab's URL and the page's text.
func (tab *Tab) fatal(format string, args ...any) {
	tab.t.Helper()
	tab.report()
	var at, text string
	_ = tab.run(chromedp.Evaluate(`location.href`, &at), chromedp.Evaluate(`document.body ? document.body.innerText : ""`, &text))
	tab.t.Fatalf("%s, at %s: %s\nThe page shows:\n%s", tab.view.Name, at, fmt.Sprintf(format, args...), text)
}
