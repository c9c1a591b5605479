package e2e

import (
	"net/http"
	"strings"
	"testing"

	"github.com/keygate-dev/keygate/e2e/browser"
	"github.com/keygate-dev/keygate/internal/testkit"
)

// TestConsoleOperator checks on a phone's screen that operators can manage tenants, credits, plans and
// tokens, and read the overview and the audit log.
func TestConsoleOperator(t *testing.T) {
	t.Parallel()
	d := startConsole(t)
	tab := d.operator(t, browser.Phone)

	// The operator creates a tenant. The page shows each input error next to its field, and keeps typed
	// values.
	tab.Go("/tenants")
	tab.Has("No tenants yet")
	tab.Follow("link=Create the first tenant")
	tab.Fill("label=Slug", "no spaces please")
	tab.Fill("label=Name", "Globex & Sons")
	tab.Fill("label=Plan", "business")
	tab.Fill("label=Credits to begin with", "many")
	tab.Follow("button=Create the tenant", http.StatusUnprocessableEntity)
	for _, field := range []string{"slug", "credits"} {
		if tab.ErrorOf(field) == "" && field == "credits" {
			t.Errorf("the field %s shows no error", field)
		}
	}
	if tab.Value("label=Name") != "Globex & Sons" || tab.Value("label=Credits to begin with") != "many" || tab.Value("label=Plan") != "business" {
		t.Error("the typed values are lost")
	}
	tab.Accessible()
	tab.Fill("label=Slug", "no spaces please")
	tab.Fill("label=Credits to begin with", "500")
	tab.Follow("button=Create the tenant", http.StatusUnprocessableEntity)
	if tab.ErrorOf("slug") == "" {
		t.Error("the field slug shows no error")
	}
	tab.Fill("label=Slug", "globex")
	tab.Follow("button=Create the tenant")
	tab.Has("Globex & Sons", "500")
	// A slug that another tenant has is reported as an error of the field too.
	tab.Go("/tenants/new")
	tab.Fill("label=Slug", "GLOBEX")
	tab.Follow("button=Create the tenant", http.StatusConflict)
	if tab.ErrorOf("slug") == "" {
		t.Error("the field slug shows no error for a taken slug")
	}

	// The operator adds and spends credits. The ledger lists both, and the balance never becomes negative.
	k := d.key(t, "globex", record{"name": "batch", "scopes": []string{"admin"}})
	tab.Go("/tenants/globex")
	tab.Follow("link=Ledger")
	tab.Fill("label=Credits", "250")
	tab.Fill("label=Reference", "invoice 7")
	tab.Follow("button=Change the balance")
	tab.Has("750", "invoice 7", "Ada Operator")
	tab.Fill("label=What", "spend")
	tab.Fill("label=Credits", "5000")
	tab.Follow("button=Change the balance", http.StatusPaymentRequired, http.StatusUnprocessableEntity)
	tab.Has("750")
	if got := d.balance(t, "globex"); got != 750 {
		t.Errorf("the balance is %d", got)
	}
	tab.Accessible()

	// A suspended tenant's key is rejected. An activated tenant's key works as before.
	tab.Go("/tenants/globex")
	tab.Follow("link=Suspend")
	tab.Has("It has 1 active key.")
	tab.Accessible()
	tab.Follow("button=Suspend the tenant")
	tab.Has("The tenant is suspended", "Suspended")
	d.call(t, "GET", "/v1/items", k.full).rejected(http.StatusForbidden)
	tab.Follow("link=Activate")
	tab.Follow("button=Activate the tenant")
	d.call(t, "POST", "/v1/generate/text", k.full).passed()

	// A change of the plan, or of the tenant's own limits, applies at once.
	tab.Follow("link=Edit")
	tab.Fill("label=Plan", "none")
	tab.Follow("button=Save")
	d.call(t, "GET", "/v1/items", k.full).rejected(http.StatusForbidden)
	tab.Follow("link=Edit")
	tab.Fill("label=Plan", "business")
	tab.Click("button=Limits of its own")
	tab.Fill("label=Rate", "1/d")
	tab.Follow("button=Save")
	d.call(t, "GET", "/v1/items", k.full).passed()
	d.call(t, "GET", "/v1/items", k.full).rejected(http.StatusTooManyRequests)

	tab.Go("/plans")
	tab.Has("free", "pro", "business", "none", "300/m", "100000/month")
	testkit.Eventually(t, "usage on the overview", func() bool { tab.Go("/overview"); return tab.Says("batch") && tab.Says("Rate limited") })
	tab.Has("All well", "local", "Ready", "Rate limited", "Top keys of the last day", "globex")
	tab.Await("the charts", `document.querySelectorAll('canvas').length >= 2`)
	if !tab.Drawn() {
		t.Error("a chart is empty")
	}

	// The console shows a new management token only once. The token works until the operator revokes it.
	tab.Go("/tokens")
	tab.Follow("link=Create a token")
	tab.Fill("label=Name", "deploy bot")
	tab.Fill("label=Tenant", "globex")
	tab.Check("label=keys:read", true)
	tab.Follow("button=Create the token")
	token := d.shownKey(t, tab)
	if !strings.HasPrefix(token, "kgm_") {
		t.Fatal("no token is shown")
	}
	tab.Accessible()
	tab.Expect("confirm", true, func() { tab.Follow("link=I have copied it") })
	tab.Forbid(token)
	list := func() *answer { return d.fetch(t, "GET", "/v1/keys", "", "Authorization", "Bearer "+token) }
	list().want(http.StatusOK)
	tab.Follow("link=Revoke deploy bot")
	tab.Accessible()
	tab.Follow("button=Revoke")
	tab.Has("The token is revoked")
	list().want(http.StatusUnauthorized)

	// The audit log lists all changes of the test under the operator's name, and its chain is intact.
	tab.Go("/audit?tenant=globex")
	tab.Has("Ada Operator created the tenant", "Ada Operator suspended the tenant", "Ada Operator added credits")
	tab.Go("/audit")
	tab.Has("Ada Operator created a management token", "signed in to the console")
	tab.Follow("link=Check the chain")
	tab.Has("The chain is intact.")

	// The operator can delete a tenant that has keys only after a confirmation.
	tab.Go("/tenants/globex/delete")
	tab.Follow("button=Delete permanently", http.StatusConflict)
	tab.Check("label=Also delete its keys", true)
	tab.Follow("button=Delete permanently")
	tab.Has("The tenant is deleted.")
	tab.Go("/tenants/globex", http.StatusNotFound)
	tab.Accessible()
}

// TestConsoleWebhooks creates a webhook in the console. The webhook receives deliveries, one delivery
// fails, and the operator replays it. The console shows the webhook's secrets only once.
func TestConsoleWebhooks(t *testing.T) {
	t.Parallel()
	d := startConsole(t)
	r := newReceiver(t)
	d.tenant(t, "acme", record{"plan": "pro"})
	tab := d.person(t, browser.Desktop, "acme", nil)
	tab.Go("/webhooks")
	tab.Has("No webhooks yet")
	tab.Follow("link=Create the first webhook")
	tab.Fill("label=Address", "javascript:alert(1)")
	tab.Fill("label=Events", "key.created\nnonsense.*")
	// The browser accepts the typed text as a URL, but the gateway does not.
	tab.Follow("button=Create the webhook", http.StatusUnprocessableEntity)
	if tab.ErrorOf("url") == "" {
		t.Error("the field url shows no error")
	}
	if tab.Value("label=Events") != "key.created\nnonsense.*" {
		t.Error("the typed values are lost")
	}
	tab.Accessible()
	tab.Fill("label=Address", r.URL)
	tab.Fill("label=Events", "key.created\nkey.revoked")
	tab.Follow("button=Create the webhook")
	secret := d.shownKey(t, tab)
	if !strings.HasPrefix(secret, "whsec_") {
		t.Fatal("no secret is shown")
	}
	r.set(func() { r.secret = secret })
	tab.Accessible()
	tab.Expect("confirm", true, func() { tab.Follow("link=I have copied it") })
	tab.Forbid(secret)
	hook := tab.Path()
	tab.Has("Nothing was delivered yet")

	k := d.key(t, "acme", nil)
	testkit.Eventually(t, "the delivery", func() bool { return r.types()["key.created"] == 1 })
	testkit.Eventually(t, "its row", func() bool { tab.Go(hook); return tab.Says("200") })
	tab.Has("key.created")
	if got := tab.Text("td .badge"); got != "Delivered" {
		t.Errorf("the delivery is %s", got)
	}
	tab.Accessible()
	tried := 0
	r.set(func() { r.down, tried = true, r.attempts })
	tab.Follow("button=Replay key.created")
	tab.Has("The event is being delivered again.")
	testkit.Eventually(t, "the replay", func() bool { r.mu.Lock(); defer r.mu.Unlock(); return r.attempts > tried })
	testkit.Eventually(t, "its row", func() bool { tab.Go(hook); return tab.Says("503") })
	d.post(t, k, "revoke", nil)

	tab.Follow("link=Rotate the secret")
	tab.Accessible()
	tab.Follow("button=Rotate the secret")
	second := d.shownKey(t, tab)
	if second == secret {
		t.Error("the secret is the former one")
	}
	tab.Expect("confirm", true, func() { tab.Follow("link=I have copied it") })
	tab.Forbid(second)
	tab.Follow("link=Edit")
	tab.Check("label=Active", false)
	tab.Follow("button=Save")
	tab.Has("Disabled")
	tab.Follow("link=Delete")
	tab.Follow("button=Delete permanently")
	tab.Has("The webhook is deleted.")
	tab.Go(hook, http.StatusNotFound)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.wrong) > 0 {
		t.Errorf("deliveries with a wrong signature: %q", r.wrong)
	}
}
