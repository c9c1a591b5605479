package console

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/auth"
	"github.com/keygate-dev/keygate/plugin/management/webhooks"
)

var (
	links       = regexp.MustCompile(` href="([^"]*)"`)
	secretValue = regexp.MustCompile(`<code id="secret"[^>]*>([^<]+)</code>`)
	ids         = regexp.MustCompile(` id="([^"]+)"`)
	forms       = regexp.MustCompile(`(?s)<form [^>]*method="post".*?</form>`)
	controls    = regexp.MustCompile(`<(input|select|textarea)[^>]*>`)
	references  = regexp.MustCompile(` (?:for|aria-describedby|aria-labelledby|data-shows|data-charts|data-copy|list)="([^"]+)"`)
	addresses   = regexp.MustCompile(` (?:src|href|action|hx-get|hx-post)="([^"]*)"`)
)

// busy returns a fixture in which every page has something to show.
func busy(t testing.TB) *fixture {
	w := newFixture(t)
	w.tenant("acme", "pro")
	w.tenant("tiny", "free")
	for i := range 27 {
		w.key("acme", fmt.Sprintf("Key %d <b>&\"'", i))
	}
	k := w.key("acme", "Everything")
	testkit.Must[management.KeyRecord](t)(w.manager.UpdateKey(ctx, root, "default", k.ID, management.KeyFields{
		Description: management.Some("Two\nlines"), AllowedIPs: management.Some([]string{"192.0.2.0/24"}), Rate: management.Some("5/m"), CreditsLimit: management.Some(int64(9)),
		ExpiresAt: management.Some(w.clock.Now().Add(48 * time.Hour)),
	}, nil))
	testkit.Must[management.IssuedKey](t)(w.manager.RotateKey(ctx, root, "default", k.ID, time.Hour))
	testkit.Must[management.Receipt](t)(w.manager.RevokeKey(ctx, root, "default", w.key("acme", "gone").ID))
	testkit.Must[management.Receipt](t)(w.manager.DisableKey(ctx, root, "default", w.key("acme", "off").ID))
	testkit.Must[webhooks.Issued](t)(w.handler.webhooks.CreateWebhook(ctx, root, "default", webhooks.Fields{URL: management.Some("https://hooks.example.com/"), Tenant: management.Some("acme")}))
	testkit.Must[webhooks.PostedEvent](t)(w.handler.webhooks.PostEvent(ctx, root, "default", "acme", "job.finished", nil))
	for i := range 5 {
		w.use(k, gateway.Allowed, 200+i)
		w.use(k, gateway.RateLimited, 429)
		w.use(k, gateway.CreditsExhausted, 402)
	}
	if err := w.tracker.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	return w
}

// check checks the rules for every page: structure, ids, labels, form tokens, links and headers.
func (p page) check() {
	t := p.t
	t.Helper()
	if p.status != http.StatusOK {
		t.Errorf("%s: %d\n%s", p.path, p.status, text(p.body))
		return
	}
	for what, want := range map[string]int{"<h1": 1, "<main": 1, "</html>": 1, "<title>": 1, `<html lang="en">`: 1} {
		if n := strings.Count(p.body, what); n != want {
			t.Errorf("%s has %d of %s, want %d", p.path, n, what, want)
		}
	}
	for _, wrong := range []string{"ZgotmplZ", "<no value>", "%!", "<script>", "style=", " onclick", "javascript:", "<b>&", "0001-01-01"} {
		if strings.Contains(p.body, wrong) {
			t.Errorf("%s holds %s", p.path, wrong)
		}
	}
	seen := map[string]bool{}
	for _, m := range ids.FindAllStringSubmatch(p.body, -1) {
		if seen[m[1]] {
			t.Errorf("%s has two elements with the id %s", p.path, m[1])
		}
		seen[m[1]] = true
	}
	for _, m := range references.FindAllStringSubmatch(p.body, -1) {
		for _, id := range strings.Fields(m[1]) {
			if !seen[id] {
				t.Errorf("%s refers to %s, which is not there", p.path, id)
			}
		}
	}
	for _, form := range forms.FindAllString(p.body, -1) {
		if !strings.Contains(form, `name="csrf" value="`) {
			t.Errorf("%s has a form without the session's token", p.path)
		}
		for _, control := range controls.FindAllString(form, -1) {
			id := ids.FindStringSubmatch(control)
			if strings.Contains(control, `type="hidden"`) || strings.Contains(control, `type="checkbox"`) {
				continue // A checkbox has no label of its own, because it is inside its label element.
			}
			if id == nil || !strings.Contains(p.body, `for="`+id[1]+`"`) {
				t.Errorf("%s has a field without a label: %s", p.path, control)
			}
		}
	}
	for _, m := range addresses.FindAllStringSubmatch(p.body, -1) {
		if to := m[1]; !strings.HasPrefix(to, "/") && !strings.HasPrefix(to, "#") && !strings.HasPrefix(to, "?") && to != "https://app.example.com/settings" {
			t.Errorf("%s leads elsewhere: %s", p.path, to)
		}
	}
	p.checkHeader()
}

func (p page) checkHeader() {
	p.t.Helper()
	for name, want := range map[string]string{
		"Content-Security-Policy": policy, "X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin",
		"Cache-Control": "no-store", "Cross-Origin-Opener-Policy": "same-origin", "Content-Type": "text/html; charset=utf-8",
	} {
		if got := p.header.Get(name); got != want {
			p.t.Errorf("%s: %s is %q, want %q", p.path, name, got, want)
		}
	}
}

func TestEveryPage(t *testing.T) {
	w := busy(t)
	for who, least := range map[string]int{"operator": 60, "editor": 30, "viewer": 14} {
		t.Run(who, func(t *testing.T) {
			b := w.operator()
			if who != "operator" {
				b = w.person("acme", who)
			}
			b.t = t
			pages := b.crawl()
			titles := map[string]bool{}
			for _, p := range pages {
				p.t = t
				p.check()
				titles[strings.SplitN(strings.SplitN(p.body, "<title>", 2)[1], "</title>", 2)[0]] = true
			}
			if len(pages) < least || len(titles) < 8 {
				t.Errorf("there are %d pages with %d titles", len(pages), len(titles))
			}
			b.get("/nothing").want(http.StatusNotFound).checkHeader()
		})
	}
	for _, path := range []string{"/sign-in", "/portal"} {
		w.browser().get(path).checkHeader()
	}
}

// Empty pages of a new console link to the next step.
func TestEmptyPages(t *testing.T) {
	w := newFixture(t)
	b := w.operator()
	for path, next := range map[string]string{
		"/keys": "/keys/new", "/tenants": "/tenants/new", "/webhooks": "/webhooks/new", "/keys/new": "/tenants/new", "/overview": "/keys/new",
	} {
		p := b.get(path)
		p.check()
		if main := p.body[strings.Index(p.body, "<main"):]; !strings.Contains(main, `href="`+next+`"`) {
			t.Errorf("%s does not lead to %s", path, next)
		}
	}
	w.tenant("acme", "free")
	person := w.person("acme", "editor")
	person.get("/keys").has("No keys yet", "Create the first key").check()
	person.get("/usage").has("No request was counted in this time").check()
}

// Under a path prefix, all links of the console have the prefix.
func TestPathPrefix(t *testing.T) {
	w := newFixture(t, func(o *Options) { o.Base = func(*http.Request) string { return "/a/console" } })
	w.tenant("acme", "pro")
	w.key("acme", "one")
	b := w.browser()
	b.get("/keys").to("/a/console/sign-in?to=%2Fkeys")
	b.post("/sign-in", "token", w.token("*").Token, "to", "/keys").to("/a/console/keys")
	for _, path := range []string{"/keys", "/tenants/acme", "/audit", "/webhooks/new"} {
		p := b.get(path)
		for _, m := range addresses.FindAllStringSubmatch(p.body, -1) {
			if to := m[1]; !strings.HasPrefix(to, "/a/console/") && !strings.HasPrefix(to, "#") && !strings.HasPrefix(to, "?") {
				t.Errorf("%s leads to %s", path, to)
			}
		}
	}
}

// The first page stays small: a list shows pageSize keys, however many there are.
func TestFirstPageWeight(t *testing.T) {
	w := busy(t)
	b := w.operator()
	b.client.Transport = &http.Transport{DisableCompression: true}
	for _, path := range []string{"/keys", "/overview"} {
		p := b.get(path)
		sum := len(p.body)
		seen := map[string]bool{}
		for _, m := range addresses.FindAllStringSubmatch(p.body, -1) {
			if !strings.HasPrefix(m[1], assetPath) || seen[m[1]] {
				continue
			}
			seen[m[1]] = true
			r := testkit.Must[*http.Request](t)(http.NewRequest("GET", w.server.URL+m[1], nil))
			r.Header.Set("Accept-Encoding", "gzip, br")
			a := b.do(r).want(http.StatusOK)
			if cc := a.header.Get("Cache-Control"); cc != "public, max-age=31536000, immutable" {
				t.Errorf("%s is kept %q", m[1], cc)
			}
			sum += len(a.body)
		}
		t.Logf("%s: %d bytes with %d assets, page %d", path, sum, len(seen), len(p.body))
		if sum > 90<<10 {
			t.Errorf("%s weighs %d bytes", path, sum)
		}
		if rows := strings.Count(p.body, `<tr role="row"><th role="rowheader"`); path == "/keys" && rows != pageSize {
			t.Errorf("the list has %d rows", rows)
		}
	}
	next := regexp.MustCompile(`href="([^"]*cursor=[^"]*)" rel="next"`).FindStringSubmatch(b.get("/keys?status=active").body)
	if next == nil || !strings.Contains(next[1], "status=active") {
		t.Fatalf("there is no next page: %v", next)
	}
	b.get(strings.ReplaceAll(next[1], "&amp;", "&")).want(http.StatusOK).has("First page", "Key 1").lacks("Everything")
}

func TestAssets(t *testing.T) {
	w := newFixture(t, func(o *Options) {
		o.Brand = Brand{Title: "Acme <Cloud>", Color: "#0af", Logo: File{Name: "logo.svg", Data: []byte(`<svg xmlns="http://www.w3.org/2000/svg"/>`)}}
	})
	b := w.operator()
	p := b.get("/overview").has("Acme <Cloud>")
	if strings.Contains(p.body, "Acme <Cloud>") || !strings.Contains(p.body, `src="/assets/logo.`) {
		t.Error("the title is not escaped, or there is no logo")
	}
	for name, a := range w.handler.assets {
		got := b.get(assetPath + name).want(http.StatusOK)
		if got.header.Get("Content-Type") != a.kind || got.body != string(a.data) {
			t.Errorf("%s is %s", name, got.header.Get("Content-Type"))
		}
	}
	for _, name := range []string{"console.css", "../console.go", "vendor/htmx.min.js", "htmx.LICENSE", ""} {
		b.get(assetPath + name).want(http.StatusNotFound)
	}
	rec := httptest.NewRecorder()
	r := httptest.NewRequest("GET", assetPath+w.handler.names["htmx.min.js"], nil)
	r.Header.Set("Accept-Encoding", "gzip;q=0")
	if w.handler.ServeHTTP(rec, r); rec.Header().Get("Content-Encoding") != "" {
		t.Error("gzip is sent to a client that does not accept it")
	}
	for _, brand := range []Brand{{Color: "red"}, {Color: "#12345"}, {Color: "#12345g"}, {Logo: File{"logo.exe", []byte("x")}}, {Logo: File{"logo.png", make([]byte, maxLogo+1)}}} {
		if _, err := New(w.manager, Options{Brand: brand}); err == nil {
			t.Errorf("the brand with the colour %+v is accepted", brand.Color)
		}
	}
}

// Every pair of text and background in the style sheet is readable, whatever the colour of the
// brand.
func TestContrast(t *testing.T) {
	css := string(testkit.Must[[]byte](t)(os.ReadFile("assets/console.css")))
	light, dark, _ := strings.Cut(css[strings.Index(css, ":root{"):], "@media (prefers-color-scheme:dark){:root{")
	dark, _, _ = strings.Cut(dark, "}}")
	light, _, _ = strings.Cut(light, "}")
	tokens := func(text string) map[string]rgb {
		out := map[string]rgb{}
		for _, m := range regexp.MustCompile(`--([a-z0-9-]+):(#[0-9a-f]{3,6})`).FindAllStringSubmatch(text, -1) {
			out[m[1]] = testkit.Must[rgb](t)(parseColor(m[2]))
		}
		return out
	}
	pairs := map[string][]string{
		"text": {"bg", "surface", "surface-2"}, "muted": {"bg", "surface", "surface-2", "dim-soft"}, "good": {"good-soft", "surface"}, "warn": {"warn-soft", "surface"},
		"bad": {"bad-soft", "surface", "bg"}, "on-grave": {"grave"}, "accent": {"bg", "surface", "surface-2", "accent-soft"}, "on-accent": {"accent", "accent-strong"},
		"accent-strong": {"accent-soft", "surface", "bg"},
	}
	colors := []string{"", "#000", "#fff", "#ff0", "#00f", "#f00", "#0f0", "#808080", "#3d5afe", "#ffd54f", "#123456"}
	for i := range 64 {
		colors = append(colors, fmt.Sprintf("#%02x%02x%02x", i%4*85, i/4%4*85, i/16*85))
	}
	for _, color := range colors {
		theme := string(testkit.Must[[]byte](t)(Brand{Color: color}.theme()))
		accentLight, accentDark, _ := strings.Cut(theme, "@media")
		for mode, text := range map[string]string{"light": light + accentLight, "dark": dark + accentDark} {
			c := tokens(text)
			for fore, grounds := range pairs {
				for _, ground := range grounds {
					if got := contrast(c[fore], c[ground]); got < 4.5 {
						t.Errorf("%s, %q: %s %v on %s %v is %.2f to 1", mode, color, fore, c[fore], ground, c[ground], got)
					}
				}
			}
			for _, ground := range []string{"surface", "bg"} {
				if got := contrast(c["edge"], c[ground]); got < 3 {
					t.Errorf("%s: fields' edges on %s are %.2f to 1", mode, ground, got)
				}
				for i := range 6 {
					if got := contrast(c["series-"+strconv.Itoa(i+1)], c[ground]); got < 3 {
						t.Errorf("%s: series %d on %s is %.2f to 1", mode, i+1, ground, got)
					}
				}
			}
		}
	}
}

// Every reason, scope and notice has a text for people.
func TestNamesHaveTexts(t *testing.T) {
	for r := range gateway.NumReasons {
		if reasonText(r.String()) == "" || reasonText(r.String()) == r.String() || reasonHelp(r.String()) == "" {
			t.Errorf("the reason %s has no text for people", r)
		}
	}
	for _, s := range auth.TokenScopes() {
		if scopeTexts[s] == "" {
			t.Errorf("the scope %s has no text for people", s)
		}
	}
	source := ""
	for _, name := range testkit.Must[[]os.DirEntry](t)(os.ReadDir(".")) {
		if strings.HasSuffix(name.Name(), ".go") && !strings.HasSuffix(name.Name(), "_test.go") {
			source += string(testkit.Must[[]byte](t)(os.ReadFile(name.Name())))
		}
	}
	for name := range notices {
		if strings.Count(source, `"`+name+`"`) < 2 {
			t.Errorf("nothing leads to the notice %s", name)
		}
	}
	for _, m := range regexp.MustCompile(`redirect\([^\n]*, "([a-z-]+)"\)|notice:\s+"([a-z-]+)"`).FindAllStringSubmatch(source, -1) {
		if name := m[1] + m[2]; notices[name] == "" {
			t.Errorf("the notice %s has no text for people", name)
		}
	}
	// Every template belongs to a page.
	for name := range templates().pages {
		if !strings.Contains(source, `"`+name+`"`) {
			t.Errorf("no page is made from %s", name)
		}
	}
	for _, rt := range routes {
		if !slices.Contains([]audience{people, operators, anybody}, rt.who) || rt.who == operators && rt.scope == "" {
			t.Errorf("%s has no valid audience, or is for operators without a scope", rt.pattern)
		}
	}
}
