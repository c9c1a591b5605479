package management_test

import (
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/webhooks"
)

func reach(t *testing.T, blocks string) (r webhooks.Reach) {
	t.Helper()
	for _, b := range strings.Fields(blocks) {
		r.Private = append(r.Private, testkit.Must[netip.Prefix](t)(webhooks.ParsePrivateBlock(b)))
	}
	return r
}

func TestReach(t *testing.T) {
	var private string
	for _, p := range webhooks.PrivateRanges() {
		private += p.String() + " "
	}
	for _, c := range []struct{ blocks, yes, no string }{
		{"", "8.8.8.8 ::ffff:8.8.8.8 2606:4700:4700::1111", "10.0.0.1 127.0.0.1 ::1 169.254.169.254 168.63.129.16 64:ff9b::808:808 2002:808:808:: 224.0.0.1"},
		{
			private, "8.8.8.8 10.1.2.3 172.16.0.1 192.168.1.1 100.64.0.1 fd00::1 fc00::1 ::ffff:10.0.0.1",
			"127.0.0.1 ::1 0.0.0.0 :: ::ffff:127.0.0.1 169.254.1.1 169.254.169.254 fe80::1 fe80::1%eth0 fd00:ec2::254 fd20:ce::254 100.100.100.200 64:ff9b::a00:1 2002:a00:1::",
		},
		// A configured block of private addresses does not allow the guarded addresses inside it, such as loopback, unless the block
		// lies within the guarded range.
		{
			"0.0.0.0/0 ::/0", "8.8.8.8 10.1.2.3 198.18.0.1 64:ff9b::a00:1 2002:a00:1::",
			"127.0.0.1 ::1 0.0.0.0 :: ::ffff:7f00:1 169.254.1.1 169.254.169.254 fe80::1 fd00:ec2::254 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::7f00:1 2002:7f00:1:: 2002:a9fe:a9fe::",
		},
		{"127.0.0.0/8", "127.0.0.1 127.9.9.9 0.0.0.0 ::ffff:127.0.0.1", "::1 :: 10.0.0.1"},
		{"127.0.0.1", "127.0.0.1 0.0.0.0", "127.0.0.2 ::1"},
		{"::1", "::1 ::", "127.0.0.1 0.0.0.0"},
		{"fe80::/10", "fe80::1 fe80::1%eth0", "169.254.1.1"},
		{"169.254.0.0/16", "169.254.1.1", "169.254.169.254"},
		{"169.254.169.254 fd00:ec2::254", "169.254.169.254 fd00:ec2::254", "169.254.1.1 fd00:ec2::253"},
		{"10.0.0.0/8", "10.1.2.3", "11.0.0.1%x 192.168.0.1 64:ff9b::a00:1"},
		{"64:ff9b::/96", "64:ff9b::808:808", "64:ff9b::a00:1 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::808:808"},
		{"64:ff9b::/96 10.0.0.0/8", "64:ff9b::a00:1 64:ff9b::808:808", "64:ff9b::7f00:1"},
		{"2002::/16", "2002:808:808::", "2002:a00:1::"},
	} {
		r := reach(t, c.blocks)
		for list, want := range map[string]bool{c.yes: true, c.no: false} {
			for _, text := range strings.Fields(list) {
				a, err := netip.ParseAddr(text)
				if err != nil {
					continue // An IPv4 address has no zone.
				}
				if err := r.Check(netip.AddrPortFrom(a, 80)); (err == nil) != want {
					t.Errorf("with %q, %s: %v", c.blocks, text, err)
				}
			}
		}
	}
}

// TestReachOfOwnListener proves that an IPv6 address that wraps one of this process's own
// addresses is rejected too.
func TestReachOfOwnListener(t *testing.T) {
	r := reach(t, "127.0.0.0/8 ::1 64:ff9b::/96 2002::/16 10.0.0.0/8")
	r.Listens = func(to netip.AddrPort) bool {
		return to.Port() == 2019 && (to.Addr().IsLoopback() || to.Addr() == netip.MustParseAddr("10.0.0.9"))
	}
	for _, a := range strings.Fields("127.0.0.1 ::1 0.0.0.0 :: ::ffff:127.0.0.1 10.0.0.9 64:ff9b::a00:9 2002:a00:9::") {
		if err := r.Check(netip.AddrPortFrom(netip.MustParseAddr(a), 2019)); err != webhooks.ErrOwnListener {
			t.Errorf("%s: %v", a, err)
		}
		if err := r.Check(netip.AddrPortFrom(netip.MustParseAddr(a), 2020)); err != nil {
			t.Errorf("another port of %s: %v", a, err)
		}
	}
}

// TestWebhookURLNamesTheRemedy proves that a webhook with a URL at a private address is rejected
// with the line of the Caddyfile that would allow it.
func TestWebhookURLNamesTheRemedy(t *testing.T) {
	settings := webhooks.Settings{Sealer: clear{}, Reach: reach(t, "10.1.0.0/16 ::1")}
	settings.Reach.Listens = func(to netip.AddrPort) bool { return to.Port() == 2019 }
	w := newWebhookFixture(t, settings)
	for url, want := range map[string]string{
		"http://127.0.0.1/":                       "webhooks { allow_private 127.0.0.0/8 }",
		"http://10.2.0.1/":                        "webhooks { allow_private 10.0.0.0/8 }",
		"http://[fd00::1]/":                       "webhooks { allow_private fc00::/7 }",
		"http://169.254.169.254/latest/meta-data": "webhooks { allow_private 169.254.169.254/32 }",
		"http://169.254.7.7/":                     "webhooks { allow_private 169.254.0.0/16 }",
		"http://198.18.0.1/":                      "webhooks { allow_private 198.18.0.0/15 }",
		"http://[64:ff9b::a02:1]/":                "webhooks { allow_private 10.0.0.0/8 }",
		"http://10.1.0.1:2019/stop":               "this gateway itself",
		"http://localhost:2019/stop":              "this gateway itself",
		"http://8.8.8.8:2019/stop":                "this gateway itself",
	} {
		_, err := w.CreateWebhook(ctx, ada, "", webhookAt(url))
		wantError(t, err, http.StatusUnprocessableEntity, management.CodeInvalidField, "/url")
		var e *management.Error
		if !errors.As(err, &e) || !strings.Contains(e.Fields[0].Detail, want) {
			t.Errorf("%s is rejected with %q, want %q", url, e.Fields[0].Detail, want)
		}
	}
	for _, url := range []string{"http://10.1.0.1/", "http://localhost/", "http://[::1]:8080/", "https://example.com:2019/"} {
		if _, err := w.CreateWebhook(ctx, ada, "", webhookAt(url)); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
}
