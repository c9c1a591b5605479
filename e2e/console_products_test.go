package e2e

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/keygate-dev/keygate/internal/testkit"
)

// startWithConsole starts a product with its shipped configuration and a console on another site. It signs
// in to the console with a portal link of the tenant.
func startWithConsole(t *testing.T, p product, tenant record) (*site, *visitor) {
	t.Helper()
	consoleSite := "http://127.0.0.1:" + freePort(t)
	config := "import " + shipped(t, "configs/"+p.name+".Caddyfile") + "\n{$KEYGATE_CONSOLE} {\n\tkeygate_console\n}\n"
	g := start(t, written(t, config), newUpstream(t), "KEYGATE_CONSOLE="+consoleSite)
	s := &site{gateway: g, product: p}
	s.tenant(t, "acme", tenant)
	link := s.manage(t, "POST", "/v1/tenants/acme/portal", record{"actor": "Ada", "role": "editor"}).want(http.StatusCreated).json().text("url")
	code, ok := strings.CutPrefix(link, consoleSite+"/portal#")
	if !ok {
		t.Fatalf("the link is %s", link)
	}
	s.keep(code)
	v := &visitor{gateway: g, t: t, at: consoleSite}
	v.post("/portal", url.Values{"code": {code}}).want(http.StatusSeeOther)
	return s, v
}

// cells returns the text of each row of the page's tables.
func cells(body string) (rows []string) {
	for _, row := range strings.Split(body, `<tr role="row">`)[1:] {
		row, _, _ = strings.Cut(row, "</tr>")
		var text strings.Builder
		in := false
		for _, r := range row {
			switch {
			case r == '<':
				in = true
			case r == '>':
				in = false
				text.WriteByte(' ')
			case !in:
				text.WriteRune(r)
			}
		}
		rows = append(rows, strings.Join(strings.Fields(text.String()), " "))
	}
	return rows
}

func holds(rows []string, words ...string) bool {
	for _, row := range rows {
		all := true
		for _, w := range words {
			all = all && strings.Contains(row, w)
		}
		if all {
			return true
		}
	}
	return false
}

// TestConsoleConvilyn checks that Convilyn's console shows what the product's page promises: "usage:
// requests and credits per key".
func TestConsoleConvilyn(t *testing.T) {
	s, v := startWithConsole(t, convilyn, record{"plan": "business", "credits": 100})
	k := s.key(t, "acme", record{"name": "Desktop"})
	for range 3 {
		s.call(t, "GET", convilyn.path, k.full).passed()
	}
	s.call(t, "POST", "/api/v1/workflows/run", k.full).passed()
	var page *answer
	testkit.Eventually(t, "the usage is shown", func() bool {
		page = v.get("/keys/" + k.id)
		return strings.Contains(page.body, "<dt>Requests</dt><dd>4</dd>")
	})
	for _, want := range []string{"<dt>Credits</dt><dd>8</dd>", `data-column="credits"`, "GET /api/v1/workflows/catalog"} {
		if !strings.Contains(page.body, want) {
			t.Errorf("the key's page lacks %s", want)
		}
	}
	testkit.Eventually(t, "the balance is shown", func() bool {
		return strings.Contains(v.get("/usage").want(http.StatusOK).body, "<dt>Credits</dt><dd>92</dd>")
	})
}

// TestConsoleVilvik checks that Vilvik's console shows a sample curl command with the new key. It must also
// show a list with the first twelve characters, scopes and last use of each key, and a key's audit log.
func TestConsoleVilvik(t *testing.T) {
	s, v := startWithConsole(t, vilvik, record{"plan": "premium"})
	made := v.fill("/keys/new", "name", "Notebook", "description", "for the lab", "with_scopes", "yes", "scopes", "read", "expires", "30").want(http.StatusOK)
	m := shownOnce.FindStringSubmatch(made.body)
	if m == nil || !strings.HasPrefix(m[1], "vlk_") {
		t.Fatalf("no key is shown")
	}
	s.keep(m[1])
	if !strings.Contains(made.body, "curl -H &#39;Authorization: Bearer "+m[1]+"&#39; "+s.gateway.site) {
		t.Errorf("the curl command does not contain the new key: %s", made.body)
	}
	if rows := cells(v.get("/keys").body); !holds(rows, "Notebook", m[1][:12]+"…", "read", "never", "in 30 days", "Active") {
		t.Errorf("the list is %q", rows)
	}
	s.call(t, "GET", vilvik.path, m[1]).passed()
	testkit.Eventually(t, "the list shows when and from where it was last used", func() bool {
		return holds(cells(v.get("/keys").body), "Notebook", "seconds ago from 127.0.0.1")
	})
	id := s.all(t, "/v1/tenants/acme/keys")[0].text("id")
	v.fill("/keys/"+id+"/edit", "name", "Notebook 2", "with_scopes", "yes", "scopes", "write", "expires", "keep").want(http.StatusSeeOther)
	page := v.get("/keys/" + id).want(http.StatusOK).body
	for _, want := range []string{"<strong>Ada</strong> created the key", "<strong>Ada</strong> changed the key", "<code>127.0.0.1</code>", "<ins>write</ins>"} {
		if !strings.Contains(page, want) {
			t.Errorf("the audit log lacks %s", want)
		}
	}
}

// TestConsoleKnouds checks that Knouds' console lists keys with name, creation date and scope badge. The
// scope of the tenant's tier must be the default, and a higher scope can't be chosen.
func TestConsoleKnouds(t *testing.T) {
	s, v := startWithConsole(t, knouds, record{"plan": "pro"})
	s.key(t, "acme", record{"name": "Robot"})
	if rows := cells(v.get("/keys").body); !holds(rows, "Robot", "deployment", "ago", "Active") {
		t.Errorf("the list is %q", rows)
	}
	if body := v.get("/keys").body; !strings.Contains(body, `<span class="scope">deployment</span>`) || !strings.Contains(body, "<time datetime=") {
		t.Error("there is no badge or no date")
	}
	form := v.get("/keys/new").want(http.StatusOK).body
	for _, want := range []string{`value="deployment" checked`, `value="admin" disabled`, "not part of the plan pro"} {
		if !strings.Contains(form, want) {
			t.Errorf("the form lacks %s", want)
		}
	}
	v.fill("/keys/new", "name", "x", "with_scopes", "yes", "scopes", "admin").want(http.StatusUnprocessableEntity)
}
