//go:build screenshots

package e2e

import (
	"os"
	"testing"

	"github.com/keygate-dev/keygate/internal/browser"
)

// The pictures of the README: `make screenshots`.
func TestScreenshots(t *testing.T) {
	dir := os.Getenv("SCREENSHOTS")
	d := startDesk(t)
	tab := d.open(t, browser.Desktop)
	tab.Go("/sign-in")
	tab.Picture(dir+"/signin.png", true)
	empty := d.operator(t, browser.Desktop)
	for name, path := range map[string]string{"empty-keys": "/keys", "empty-tenants": "/tenants", "empty-overview": "/overview", "empty-webhooks": "/webhooks"} {
		empty.Go(path)
		empty.Picture(dir+"/"+name+".png", true)
	}
	keys := d.fill(t)
	for _, v := range []browser.View{browser.Desktop, browser.Desktop.InDark(), browser.Phone, browser.Phone.InDark()} {
		tab := d.operator(t, v)
		for name, path := range map[string]string{
			"overview": "/overview", "keys": "/keys", "key": "/keys/" + keys["site"].id, "new": "/keys/new?tenant=acme", "tenants": "/tenants", "tenant": "/tenants/globex",
			"plans": "/plans", "webhooks": "/webhooks", "tokens": "/tokens", "newtoken": "/tokens/new", "audit": "/audit", "chain": "/audit/chain", "sessions": "/sessions", "explain": "/explain",
			"revoke": "/keys/" + keys["site"].id + "/revoke", "rotate": "/keys/" + keys["site"].id + "/rotate", "credits": "/tenants/globex/credits", "choose": "/keys/new",
		} {
			tab.Go(path)
			tab.Picture(dir+"/"+name+"-"+v.Name+".png", true)
		}
		tab = d.person(t, v, "acme", record{"return_url": "http://localhost/settings"})
		for name, path := range map[string]string{"t-keys": "/keys", "t-usage": "/usage", "t-new": "/keys/new"} {
			tab.Go(path)
			tab.Picture(dir+"/"+name+"-"+v.Name+".png", true)
		}
	}
}
