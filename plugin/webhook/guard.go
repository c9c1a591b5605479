package webhook

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"github.com/keygate-dev/keygate/plugin/management"
)

// errPrivate says that a webhook's host stands for an address that is not public.
var errPrivate = errors.New("the host is at an address that is not public, which webhooks don't go to unless the keyspace's configuration says webhooks { allow_private }")

// newClient returns a client that follows no redirects and asks no proxy. A guarded one connects
// to public addresses only, as they are when the connection is made: what a name stood for before says nothing.
func newClient(guarded bool) *http.Client {
	d := &net.Dialer{Timeout: 10 * time.Second}
	if guarded {
		d.ControlContext = guard
	}
	return &http.Client{
		Transport: &http.Transport{
			DialContext:            d.DialContext,
			ForceAttemptHTTP2:      true,
			TLSHandshakeTimeout:    10 * time.Second,
			MaxIdleConns:           256,
			MaxIdleConnsPerHost:    perEndpoint,
			IdleConnTimeout:        30 * time.Second,
			MaxResponseHeaderBytes: maxResponse,
			DisableCompression:     true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// guard refuses a connection before it is made, to any address that is not public.
func guard(_ context.Context, network, address string, _ syscall.RawConn) error {
	if network != "tcp4" && network != "tcp6" {
		return errPrivate
	}
	to, err := netip.ParseAddrPort(address)
	if err != nil || !management.PublicAddr(to.Addr()) {
		return errPrivate
	}
	return nil
}
