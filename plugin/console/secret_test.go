package console

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/auth"
	"github.com/keygate-dev/keygate/plugin/management/webhooks"
)

var anID = regexp.MustCompile(`([a-z]{3}_)[0-9a-z]{26}`)

// crawl gets every page that can be reached by links from the console's first page.
func (b *browser) crawl() (pages []page) {
	b.t.Helper()
	seen, kinds := map[string]bool{}, map[string]int{}
	queue := []string{"/"}
	for len(queue) > 0 {
		path := queue[0]
		queue = queue[1:]
		if at, _, ok := strings.Cut(path, "#"); ok {
			path = at
		}
		// Of pages that differ only in ids and values, the crawl gets two.
		at, query, _ := strings.Cut(path, "?")
		kind := anID.ReplaceAllString(at, "$1") + regexp.MustCompile(`=[^&]*`).ReplaceAllString(query, "")
		if seen[path] || kinds[kind] >= 2 || path == "" {
			continue
		}
		kinds[kind]++
		if seen[path] = true; len(seen) > 1000 {
			b.t.Fatal("there are too many pages")
		}
		p := b.get(path)
		if p.status == http.StatusSeeOther {
			queue = append(queue, p.header.Get("Location"))
			continue
		}
		pages = append(pages, p)
		for _, m := range links.FindAllStringSubmatch(p.body, -1) {
			to := strings.ReplaceAll(m[1], "&amp;", "&")
			if strings.HasPrefix(to, "/") && !strings.HasPrefix(to, assetPath) {
				queue = append(queue, to)
			}
		}
	}
	return pages
}

// A secret is only in the response to the POST that created it. No other page, no response to a
// repeated form, no URL, no log and no row of the store contains it.
func TestSecretsAreShownOnce(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "pro")
	b := w.operator()
	k := w.key("acme", "to rotate")
	var shown []string
	hook := testkit.Must[webhooks.Issued](t)(w.handler.webhooks.CreateWebhook(ctx, root, "default", webhooks.Fields{URL: management.Some("https://hooks.example.com/")}))
	for _, c := range []struct {
		name, path, prefix string
		fields             []string
	}{
		{"key", "/keys/new", "kg_live_", []string{"tenant", "acme", "name", "CI", "expires", "30", "with_scopes", "yes", "scopes", "free"}},
		{"rotated", "/keys/" + k.ID + "/rotate", "kg_live_", []string{"grace", "24h"}},
		{"token", "/tokens/new", "kgm_", []string{"name", "CI", "scopes", "keys:read", "expires", "30"}},
		{"webhook", "/webhooks/new", "whsec_", []string{"url", "https://hooks.example.com/2", "events", "*"}},
		{"webhook's rotated", "/webhooks/" + hook.ID + "/rotate-secret", "whsec_", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			form := b.get(c.path + "?tenant=acme")
			fields := append([]string{"csrf", b.csrf(), "once", form.once()}, c.fields...)
			p := b.post(c.path, fields...).want(http.StatusOK)
			secret := secretValue.FindStringSubmatch(p.body)
			if secret == nil || !strings.HasPrefix(secret[1], c.prefix) {
				t.Fatalf("no secret is shown: %v\n%s", secret, text(p.body))
			}
			// The page of a key contains the secret twice: in its field and in the curl command.
			want := 1
			if c.prefix == "kg_live_" {
				want = 2
				p.has("curl -H", "Bearer "+secret[1])
			}
			if n := strings.Count(p.body, secret[1]); n != want {
				t.Errorf("the page contains the secret %d times", n)
			}
			p.has("shown this once", "data-warn", "data-copy=\"secret\"")
			if cc := p.header.Get("Cache-Control"); cc != "no-store, no-transform" {
				t.Errorf("the page may be kept: %q", cc)
			}
			for name, v := range p.header {
				if strings.Contains(strings.Join(v, " "), secret[1]) {
					t.Errorf("the header %s holds it", name)
				}
			}
			// When a person reloads the page, the browser sends the form again.
			for range 2 {
				b.post(c.path, fields...).want(http.StatusConflict).has("shown before").lacks(secret[1])
			}
			shown = append(shown, secret[1])
			if strings.Contains(w.log.String(), secret[1]) {
				t.Error("the log holds it")
			}
			if strings.Contains(w.stored(), secret[1]) {
				t.Error("the store holds it")
			}
		})
	}
	for _, p := range b.crawl() {
		p.lacks(shown...)
	}
	if len(shown) != 5 {
		t.Errorf("%d secrets were shown", len(shown))
	}
	// The repeated forms created nothing.
	keys := testkit.Must[management.Page[management.KeyRecord]](t)(w.manager.Keys(ctx, root, "default", management.KeyFilter{}))
	tokens := testkit.Must[management.Page[auth.TokenRecord]](t)(auth.New(w.manager).Tokens(ctx, root, "default", auth.TokenFilter{}))
	hooks := testkit.Must[management.Page[webhooks.Record]](t)(w.handler.webhooks.Webhooks(ctx, root, "default", webhooks.Filter{}))
	if len(keys.Data) != 2 || len(tokens.Data) != 2 || len(hooks.Data) != 2 || len(keys.Data[1].Secrets) != 2 {
		t.Errorf("there are %d keys, %d tokens, %d webhooks, %d secrets", len(keys.Data), len(tokens.Data), len(hooks.Data), len(keys.Data[1].Secrets))
	}
	// Two sessions can use the same single-use number; a form without one is rejected.
	other := w.operator()
	other.send("/keys/new", "once", "n", "tenant", "acme", "name", "one", "expires", "never").want(http.StatusOK)
	b.send("/keys/new", "once", "n", "tenant", "acme", "name", "two", "expires", "never").want(http.StatusOK)
	b.send("/keys/new", "tenant", "acme", "name", "three", "expires", "never").want(http.StatusForbidden)
}

// Full keys that a person types into a form find their key, and appear in no page and no URL.
func TestTypedKeysAppearNowhere(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "pro")
	w.tenant("rival", "pro")
	k, theirs := w.key("acme", "mine"), w.key("rival", "theirs")
	b, p := w.operator(), w.person("acme", "viewer")
	b.send("/keys/search", "q", " "+k.Key+" ").to("/keys/" + k.ID)
	p.send("/keys/search", "q", k.Key).to("/keys/" + k.ID)
	unknown := testkit.Must[string](t)(w.view.Keyspaces["default"].Grammar.Generate(""))
	for _, full := range []string{theirs.Key, unknown} {
		a := p.send("/keys/search", "q", full).want(http.StatusSeeOther)
		if to := a.header.Get("Location"); strings.Contains(to, full[14:]) || !strings.HasPrefix(to, "/keys?q="+full[:12]) {
			t.Errorf("the search leads to %s", to)
		}
		p.get(a.header.Get("Location")).want(http.StatusOK).has("No key matches").lacks("theirs")
	}
	b.send("/keys/search", "q", "mi ne%_!", "status", "active", "tenant", "acme").to("/keys?q=mi+ne%25_%21&status=active&tenant=acme")
	b.send("/keys/search", "q", " ").to("/keys?")

	b.send("/explain", "key", k.Key, "method", "GET", "path", "/x").want(http.StatusOK).has("It passes", "mine").lacks(k.Key)
	b.send("/explain", "key", k.Key, "path", "x", "ip", "y").want(http.StatusUnprocessableEntity).has("Must begin with /", "Must be an address", `value="y"`).lacks(k.Key)
	b.send("/explain", "path", "/x").want(http.StatusOK).has("It is refused: No key")
	p.send("/explain", "key", theirs.Key, "path", "/x").want(http.StatusOK).has("It is refused: Unknown key").lacks("theirs", theirs.Key)
	if log := w.log.String(); strings.Contains(log, k.Key) || strings.Contains(log, theirs.Key) {
		t.Error("the log holds a key")
	}
}
