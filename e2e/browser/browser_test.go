package browser

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/chromedp/kb"
)

func TestMain(m *testing.M) {
	code := m.Run()
	Close()
	os.Exit(code)
}

// pages are the pages that the tests open.
var pages = map[string]string{
	"/": `<h1>Home</h1><p>Hello.</p><a href="/form">To the form</a>`,
	"/form": `<h1>Form</h1><form method="post" action="/form"><p><label for="n">Name</label> <input id="n" name="n"></p>
		<p><label for="c">Colour</label> <select id="c" name="c"><option value="r">Red</option><option value="b">Blue</option></select></p>
		<p><label><input type="checkbox" name="ok"> I agree</label></p><button>Send it</button></form>`,
	"/late":   `<h1>Late</h1><div id="here"></div><script src="/late.js"></script>`,
	"/leave":  `<h1>Leave</h1><button id="b">A button</button><a href="/">Home</a><script src="/leave.js"></script>`,
	"/canvas": `<h1>Drawn</h1><canvas id="c"></canvas><script src="/canvas.js"></script>`,
	"/empty":  `<h1>Not drawn</h1><canvas id="c"></canvas>`,
	"/zone":   `<h1>Zone</h1><p id="z">unknown</p><script src="/zone.js"></script>`,

	"/error":    `<h1>Error</h1><script src="/error.js"></script>`,
	"/said":     `<h1>Said</h1><script src="/said.js"></script>`,
	"/missing":  `<h1>Missing</h1><script src="/nothing.js"></script>`,
	"/inline":   `<h1>Inline</h1><script>window.bad = true</script>`,
	"/styled":   `<h1>Styled</h1><p style="color:red">Red</p>`,
	"/foreign":  `<h1>Foreign</h1><script src="/foreign.js"></script>`,
	"/image":    `<h1>Image</h1><img src="/x.png">`,
	"/wide":     `<h1>Wide</h1><pre>` + strings.Repeat("x", 500) + `</pre>`,
	"/asks":     `<h1>Asks</h1><script src="/asks.js"></script>`,
	"/stored":   `<h1>Stored</h1><script src="/stored.js"></script>`,
	"/covered":  `<h1>Covered</h1><p><a href="/">Below</a></p><script src="/covered.js"></script>`,
	"/overflow": `<h1>Overflow</h1><p><b id="b">Too_long_for_its_place</b></p><script src="/overflow.js"></script>`,
	"/passed":   `<h1>Passed</h1><p>by</p>`,
	"/redirect": "",
}

var scripts = map[string]string{
	"/late.js":     `setTimeout(() => { const b = document.createElement('button'); b.textContent = 'Come late'; b.onclick = () => { b.textContent = 'Clicked' }; here.append(b) }, 150)`,
	"/leave.js":    `b.onclick = () => addEventListener('beforeunload', e => e.preventDefault())`,
	"/canvas.js":   `document.getElementById('c').getContext('2d').fillRect(0, 0, 5, 5)`,
	"/zone.js":     `z.textContent = Intl.DateTimeFormat().resolvedOptions().timeZone + (matchMedia('(prefers-color-scheme: dark)').matches ? ' dark' : ' light')`,
	"/error.js":    `nothing.at.all()`,
	"/said.js":     `console.error('it went wrong')`,
	"/foreign.js":  `fetch('http://localhost:1/x').catch(() => {})`,
	"/asks.js":     `alert('hello')`,
	"/overflow.js": `b.style.display = 'block'; b.style.width = '2em'`,
	"/covered.js":  `const p = document.createElement('p'); p.textContent = 'Above'; p.style.position = 'absolute'; p.style.inset = '0'; document.querySelector('main').append(p)`,
	"/stored.js":   `localStorage.setItem('k', 'planted-secret')`,
}

// site serves the pages with a strict Content-Security-Policy.
func site(t *testing.T) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; connect-src *; img-src 'self'; form-action 'self'")
		if script, ok := scripts[r.URL.Path]; ok {
			w.Header().Set("Content-Type", "text/javascript")
			fmt.Fprint(w, script)
			return
		}
		body, ok := pages[r.URL.Path]
		switch {
		case r.URL.Path == "/redirect":
			http.Redirect(w, r, "/passed", http.StatusSeeOther)
			return
		case r.URL.Path == "/favicon.ico":
			return
		case r.Method == http.MethodPost:
			body = fmt.Sprintf(`<h1>Sent</h1><p>%s %s %s</p>`, r.FormValue("n"), r.FormValue("c"), r.FormValue("ok"))
		case !ok:
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(http.StatusNotFound)
			body = `<h1>Nothing</h1>`
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, `<!doctype html><html lang="en"><head><title>%s</title><meta name="viewport" content="width=device-width"></head><body><main>%s</main></body></html>`, r.URL.Path, body)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func TestTab(t *testing.T) {
	t.Parallel()
	url := site(t)
	for _, v := range []View{Desktop, Phone.InDark(), Desktop.WithoutScript()} {
		t.Run(v.Name, func(t *testing.T) {
			t.Parallel()
			v.Zone = "Asia/Tokyo"
			tab := New(t, url, v)
			tab.Go("/")
			tab.Has("Hello.")
			tab.Follow("link=To the form")
			tab.Fill("label=Name", "Ann")
			tab.Fill("label=Name", "Bob")
			tab.Fill("label=Colour", "Blue")
			tab.Check("label=I agree", true)
			tab.Check("label=I agree", true)
			if got := tab.Value("label=Name"); got != "Bob" {
				t.Errorf("the field holds %q", got)
			}
			tab.Follow("button=Send it")
			if got := tab.Text("p"); got != "Bob b on" {
				t.Errorf("sent was %q", got)
			}
			tab.Reload()
			tab.Has("Bob b on")
			tab.Back()
			tab.See("button=Send it")
			tab.Go("/nowhere", 404)
			tab.Go("/redirect")
			if got := tab.Path(); got != "/passed" {
				t.Errorf("the tab is at %s", got)
			}
			picture := filepath.Join(t.TempDir(), "p.png")
			tab.Picture(picture, true)
			if b, err := os.ReadFile(picture); err != nil || !strings.HasPrefix(string(b), "\x89PNG") {
				t.Errorf("the picture: %v", err)
			}
			tab.Go("/zone")
			want := "Asia/Tokyo light"
			if v.Dark {
				want = "Asia/Tokyo dark"
			}
			if v.NoScript {
				want = "unknown"
			}
			if got := tab.Text("#z"); got != want {
				t.Errorf("the page shows %s, want %s", got, want)
			}
			if v.NoScript {
				return
			}
			tab.Accessible()
			tab.Go("/late")
			tab.Click("button=Come late")
			tab.See("button=Clicked")
			tab.Go("/canvas")
			if !tab.Drawn() {
				t.Error("nothing is drawn")
			}
			tab.Go("/empty")
			if tab.Drawn() {
				t.Error("something is drawn")
			}
			tab.Go("/leave")
			tab.Click("button=A button")
			tab.Expect("beforeunload", false, func() { tab.Click("link=Home") })
			tab.Expect("beforeunload", true, func() { tab.Follow("link=Home") })
		})
	}
}

// A form can be filled in and sent with the keyboard alone.
func TestKeyboard(t *testing.T) {
	t.Parallel()
	tab := New(t, site(t), Desktop)
	tab.Go("/form")
	tab.Press(kb.Tab)
	if got := tab.Focused(); got != "Name" {
		t.Fatalf("the focus is on %q", got)
	}
	tab.Press("Ann" + kb.Tab + "B" + kb.Tab + " " + kb.Tab)
	if got := tab.Focused(); got != "Send it" {
		t.Fatalf("the focus is on %q", got)
	}
	tab.Submit(kb.Enter)
	if got := tab.Text("p"); got != "Ann b on" {
		t.Errorf("sent was %q", got)
	}
}

// Become shows the same page with another view.
func TestBecome(t *testing.T) {
	t.Parallel()
	tab := New(t, site(t), Desktop)
	tab.Go("/")
	for _, v := range []View{Phone.InDark(), Desktop} {
		tab.Become(v)
		var got string
		tab.Eval(`innerWidth + (matchMedia('(prefers-color-scheme: dark)').matches ? ' dark' : ' light')`, &got)
		if want := map[bool]string{true: "390 dark", false: "1280 light"}[v.Dark]; got != want {
			t.Errorf("the page is seen on %s, want %s", got, want)
		}
	}
}

// Two tabs share no cookies.
func TestTabsAreIsolated(t *testing.T) {
	t.Parallel()
	url := site(t)
	one, two := New(t, url, Desktop), New(t, url, Desktop)
	one.Go("/")
	one.SetCookie("a", "b")
	if n := len(one.Cookies()); n != 1 {
		t.Errorf("%d cookies", n)
	}
	two.Go("/")
	if n := len(two.Cookies()); n != 0 {
		t.Errorf("%d cookies of another tab", n)
	}
}

// recorder is a test that is expected to fail. It records the messages.
type recorder struct {
	testing.TB
	mu       sync.Mutex
	messages []string
}

func (r *recorder) Helper() {}
func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.messages = append(r.messages, fmt.Sprintf(format, args...))
}
func (r *recorder) Fatalf(format string, args ...any) { r.Errorf(format, args...); runtime.Goexit() }
func (r *recorder) Fatal(args ...any)                 { r.Errorf("%s", fmt.Sprint(args...)); runtime.Goexit() }

// The tab reports everything on a page that a person would call broken.
func TestNotices(t *testing.T) {
	t.Parallel()
	tab := New(t, site(t), Phone)
	for _, tt := range []struct {
		name, want string
		use        func(*Tab)
	}{
		{"an exception", "nothing is not defined", func(tab *Tab) { tab.Go("/error") }},
		{"an error in the console", "it went wrong", func(tab *Tab) { tab.Go("/said") }},
		{"a script that is missing", "/nothing.js answered 404", func(tab *Tab) { tab.Go("/missing") }},
		{"an inline script", "Content Security Policy", func(tab *Tab) { tab.Go("/inline") }},
		{"an inline style", "Content Security Policy", func(tab *Tab) { tab.Go("/styled") }},
		{"another site", "a request goes to another site: http://localhost:1/x", func(tab *Tab) { tab.Go("/foreign") }},
		{"a status", "answered 404, want [200]", func(tab *Tab) { tab.Go("/nowhere") }},
		{"a status that is too good", "answered 200, want [404]", func(tab *Tab) { tab.Go("/", 404) }},
		{"a page too wide", "scrolls sideways, because of <pre>", func(tab *Tab) { tab.Go("/wide") }},
		{"a dialogue", "an unexpected dialogue (alert): hello", func(tab *Tab) { tab.Go("/asks") }},
		{"what is not accessible", "image-alt", func(tab *Tab) { tab.Go("/image", 200); tab.Accessible() }},
		{"text over the edge", "<b id=", func(tab *Tab) { tab.Go("/overflow"); tab.Accessible() }},
		{"what is covered", "<a href", func(tab *Tab) { tab.Go("/covered"); tab.Accessible() }},
		{"a secret in the storage", "a secret is in the storage", func(tab *Tab) { tab.Forbid("planted-secret"); tab.Go("/stored") }},
		{"a secret in a request", "a secret is in a request's URL", func(tab *Tab) { tab.Go("/?planted-secret"); tab.Forbid("planted-secret") }},
		{"a secret in the page", "a secret is in the page", func(tab *Tab) { tab.Forbid("Hello."); tab.Go("/") }},
		{"a secret in a field", "a secret is in the storage, state or fields", func(tab *Tab) {
			tab.Go("/form")
			tab.Fill("label=Name", "planted-secret")
			tab.Forbid("planted-secret")
			tab.searchSecrets()
		}},
		{"a secret in the history", "a secret is in the history", func(tab *Tab) {
			tab.Go("/#planted-secret")
			tab.Go("/form")
			tab.Forbid("planted-secret")
			tab.Go("/")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := &recorder{TB: t}
			tab.t = r
			done := make(chan struct{})
			go func() {
				defer close(done)
				tt.use(tab)
				tab.report()
			}()
			<-done
			if said := strings.Join(r.messages, "\n"); !strings.Contains(said, tt.want) {
				t.Errorf("the messages are %q, want %q", said, tt.want)
			}
			tab.secrets = nil
		})
	}
	tab.t = t
}
