package webhook_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/management/webhooks"
	"github.com/keygate-dev/keygate/plugin/webhook"
)

// A webhook's address is checked when it is dialled: it may have been allowed only when the
// webhook was created, or its name may lead elsewhere.
func TestPrivateAddressesAreNotDialled(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "pro")
	var connections atomic.Int64
	e := httptest.NewUnstartedServer(http.NotFoundHandler())
	e.Config.ConnState = func(net.Conn, http.ConnState) { connections.Add(1) }
	e.Start()
	defer e.Close()
	_, port, _ := net.SplitHostPort(e.Listener.Addr().String())
	var hooks []string
	for _, host := range []string{"127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433", "0x7f000001", "127.1"} {
		hooks = append(hooks, w.hook("http://"+host+":"+port+"/", "").ID)
	}
	w.configure(func(s *webhooks.Settings) { s.Reach = webhooks.Reach{} })
	w.start(func(o *webhook.Options) { o.Schedule = quickly(1) })
	w.key("acme")
	for _, id := range hooks {
		testkit.Eventually(w.t, "it is dead", func() bool { return w.deliveries(id)[0].Status == webhooks.DeliveryDead })
		if d := w.deliveries(id)[0]; d.ResponseStatus != nil || strings.Contains(*d.Error, "127.0.0.1") {
			t.Errorf("delivery %+v: %s", d, *d.Error)
		}
	}
	if n := connections.Load(); n != 0 {
		t.Errorf("%d connections were made", n)
	}
}

// A listener of this process gets no delivery, although its block is allowed.
func TestOwnListenersAreNotDialled(t *testing.T) {
	w := newFixture(t)
	w.tenant("acme", "pro")
	w.configure(func(s *webhooks.Settings) {
		s.Reach.Private = append(s.Reach.Private, netip.MustParsePrefix("::1/128"))
	})
	own := newEndpoint(t, nil)
	_, port, _ := net.SplitHostPort(own.Listener.Addr().String())
	var hooks []string
	for _, host := range []string{"127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "[::1]"} {
		hooks = append(hooks, w.hook("http://"+host+":"+port+"/stop", "").ID)
	}
	w.configure(func(s *webhooks.Settings) { s.Reach.Listens = webhook.Listens })
	w.start(func(o *webhook.Options) { o.Schedule = quickly(1) })
	w.key("acme")
	for _, id := range hooks {
		testkit.Eventually(w.t, "it is dead", func() bool { return w.deliveries(id)[0].Status == webhooks.DeliveryDead })
		if d := w.deliveries(id)[0]; *d.Error != webhooks.ErrOwnListener.Error() {
			t.Errorf("the delivery ended with %s", *d.Error)
		}
	}
	if n := len(own.got()); n != 0 {
		t.Errorf("the listener got %d deliveries", n)
	}
}

// A connection is not used after a reload that no longer allows its address.
func TestConnectionIsNotUsedAfterReload(t *testing.T) {
	w := newFixture(t)
	e := newEndpoint(t, nil)
	w.start(func(o *webhook.Options) { o.Schedule = quickly(1) })
	w.tenant("acme", "pro")
	hook := w.hook(e.URL, "")
	w.key("acme")
	testkit.Eventually(w.t, "it is delivered", func() bool { return w.deliveries(hook.ID)[0].Status == webhooks.DeliveryDone })
	w.configure(func(s *webhooks.Settings) { s.Reach.Private = nil })
	w.key("acme")
	testkit.Eventually(w.t, "it is dead", func() bool { return w.deliveries(hook.ID)[0].Status == webhooks.DeliveryDead })
	if n := len(e.got()); n != 1 {
		t.Errorf("%d deliveries came, want 1", n)
	}
}

func TestListens(t *testing.T) {
	l := testkit.Must[net.Listener](t)(net.Listen("tcp", ":0"))
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	at := func(addr string) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(addr), port) }
	of := []string{"127.0.0.1", "127.9.9.9", "::1"}
	for _, a := range testkit.Must[[]net.Addr](t)(net.InterfaceAddrs()) {
		of = append(of, a.(*net.IPNet).IP.String())
	}
	for _, addr := range of {
		if !webhook.Listens(at(addr)) {
			t.Errorf("Listens(%s) is false for a listener of this process", at(addr))
		}
	}
	for _, addr := range []string{"8.8.8.8", "2606:4700:4700::1111"} {
		if webhook.Listens(at(addr)) {
			t.Errorf("Listens(%s) is true for another machine", at(addr))
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if webhook.Listens(at("127.0.0.1")) {
		t.Error("Listens is true for a closed listener")
	}
}
