package webhook

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/keygate-dev/keygate/plugin/management/events"
	"github.com/keygate-dev/keygate/plugin/management/webhooks"
)

// client sends a keyspace's webhooks to the addresses of a Reach, and to no others.
type client struct {
	*http.Client
	private []netip.Prefix
}

// client returns the HTTP client of a keyspace. After a reload that allows other addresses, it returns a new client, so that
// no connection to a former address is used again.
func (s *Service) client(keyspace string, reach webhooks.Reach) *client {
	s.clientsMu.Lock()
	defer s.clientsMu.Unlock()
	c := s.clients[keyspace]
	if c != nil && slices.Equal(c.private, reach.Private) {
		return c
	}
	if c != nil {
		c.CloseIdleConnections()
	}
	c = &client{newClient(reach), reach.Private}
	s.clients[keyspace] = c
	return c
}

func (s *Service) closeClients() {
	s.clientsMu.Lock()
	defer s.clientsMu.Unlock()
	for _, c := range s.clients {
		c.CloseIdleConnections()
	}
}

// newClient returns an HTTP client that follows no redirects and uses no proxy. It connects only to addresses of reach. It
// checks an address when it connects, because the host's name may have had another address before.
func newClient(reach webhooks.Reach) *http.Client {
	d := &net.Dialer{Timeout: 10 * time.Second}
	d.ControlContext = func(_ context.Context, network, address string, _ syscall.RawConn) error {
		to, err := netip.ParseAddrPort(address)
		if err == nil && network != "tcp4" && network != "tcp6" {
			err = net.UnknownNetworkError(network)
		}
		if err == nil {
			err = reach.Check(to)
		}
		if err != nil {
			return &rejected{to, err}
		}
		return nil
	}
	return &http.Client{
		Transport: &http.Transport{
			DialContext:            d.DialContext,
			ForceAttemptHTTP2:      true,
			TLSHandshakeTimeout:    10 * time.Second,
			MaxIdleConns:           256,
			MaxIdleConnsPerHost:    maxPerEndpoint,
			IdleConnTimeout:        30 * time.Second,
			MaxResponseHeaderBytes: maxResponse,
			DisableCompression:     true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// rejected is the error of an address that was not dialled. It wraps the reason.
type rejected struct {
	to netip.AddrPort
	error
}

func (r *rejected) Unwrap() error { return r.error }

// logRejected logs a webhook's address to which no connection was made. The owner of the webhook must not learn the address.
// It logs once in logInterval for each webhook.
func (s *Service) logRejected(w *events.WebhookRow, err error) {
	var r *rejected
	if !errors.As(err, &r) {
		return
	}
	s.loggedMu.Lock()
	defer s.loggedMu.Unlock()
	about := "delivering to " + w.ID
	if time.Since(s.loggedAt[about]) < logInterval {
		return
	}
	s.markLogged(about)
	remedy := "name the address of the receiver itself"
	var private *webhooks.PrivateError
	if errors.As(err, &private) {
		remedy = "to allow it, state webhooks { allow_private " + private.Block.String() + " } in the keyspace"
	}
	s.Logger.Warn("a webhook's address is not allowed, so that nothing was sent; "+remedy,
		"webhook", w.ID, "keyspace", w.Keyspace, "tenant", w.Tenant, "address", r.to.String())
}
