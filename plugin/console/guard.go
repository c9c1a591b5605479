package console

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/keygate-dev/keygate/plugin/management"
)

// A POST changes something only where three things agree: the browser says that it comes
// from the same origin (Sec-Fetch-Site, Origin; browsers that say neither are older than SameSite
// cookies), the cookie is SameSite=Lax, and the form holds what only a page of this session was told.

// maxForm bounds a form, in bytes.
const maxForm = 1 << 20

const csrfField = "csrf"

var (
	errCrossSite = &management.Error{Status: http.StatusForbidden, Code: "cross_site",
		Detail: "This form was sent by another site, so nothing was done. Open the console itself and try again."}
	errStaleForm = &management.Error{Status: http.StatusForbidden, Code: "stale_form",
		Detail: "This form is not of your present session, so nothing was done. Go back, reload the page, and send it again."}
	errForm = &management.Error{Status: http.StatusBadRequest, Code: "invalid_form",
		Detail: "The form could not be read: it is larger than 1 MiB or is none."}
)

// sameSite refuses a POST that another site's page sent.
func (c *call) sameSite() error {
	if site := c.r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" {
		return errCrossSite
	}
	origin := c.r.Header.Values("Origin")
	if len(origin) == 0 {
		return nil
	}
	u, err := url.Parse(origin[0])
	if err != nil || len(origin) > 1 || !strings.EqualFold(u.Host, c.r.Host) || u.Scheme != "https" && (u.Scheme != "http" || c.secure()) {
		return errCrossSite
	}
	return nil
}

// secure says whether the client is connected by HTTPS.
func (c *call) secure() bool {
	if c.h.opts.Secure != nil {
		return c.h.opts.Secure(c.r)
	}
	return c.r.TLS != nil
}

// loopback says whether the client named this very machine, to which a connection without TLS is seen by
// nobody else.
func (c *call) loopback() bool {
	host := (&url.URL{Host: c.r.Host}).Hostname()
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}

// formToken is what forms of the session hold.
func (c *call) formToken() []byte {
	mac := hmac.New(sha256.New, []byte(c.secret))
	mac.Write([]byte("forms of this session"))
	return mac.Sum(nil)[:16]
}

// csrf returns the session's token for a form, each time written differently: a page that is
// compressed with what an attacker put in it must not tell it bit by bit.
func (c *call) csrf() string {
	if c.grant == nil {
		return ""
	}
	t := c.formToken()
	out := make([]byte, 2*len(t))
	rand.Read(out[:len(t)])
	subtle.XORBytes(out[len(t):], t, out[:len(t)])
	return base64.RawURLEncoding.EncodeToString(out)
}

// checkCSRF refuses a form that no page of this session held.
func (c *call) checkCSRF() error {
	t := c.formToken()
	sent, err := base64.RawURLEncoding.DecodeString(c.r.PostForm.Get(csrfField))
	if err != nil || len(sent) != 2*len(t) {
		return errStaleForm
	}
	got := make([]byte, len(t))
	subtle.XORBytes(got, sent[:len(t)], sent[len(t):])
	if subtle.ConstantTimeCompare(got, t) != 1 {
		return errStaleForm
	}
	return nil
}
