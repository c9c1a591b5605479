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

// A POST changes something only under three conditions. First, the browser states the same origin
// in Sec-Fetch-Site and Origin; only browsers older than SameSite cookies send neither. Second,
// the cookie is SameSite=Lax. Third, the form contains a token that only pages of this session
// have.

// maxForm bounds the size of a form in bytes.
const maxForm = 1 << 20

const csrfField = "csrf"

var (
	errCrossSite = &management.Error{Status: http.StatusForbidden, Code: "cross_site",
		Detail: "This form was sent by another site, so nothing was done. Open the console itself and try again."}
	errStaleForm = &management.Error{Status: http.StatusForbidden, Code: "stale_form",
		Detail: "This form belongs to another session, so nothing was done. Go back, reload the page, and send it again."}
	errForm = &management.Error{Status: http.StatusBadRequest, Code: "invalid_form",
		Detail: "The form could not be read: it is larger than 1 MiB, or not a form."}
)

// sameSite returns an error for a POST that was sent by a page of another site.
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

// secure reports whether the client sent the request over HTTPS.
func (c *call) secure() bool {
	if c.h.opts.Secure != nil {
		return c.h.opts.Secure(c.r)
	}
	return c.r.TLS != nil
}

// loopback reports whether the client addressed this machine. Others can't read such a connection,
// even without TLS.
func (c *call) loopback() bool {
	host := (&url.URL{Host: c.r.Host}).Hostname()
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}

// formToken returns the token that forms of the session contain, without a mask.
func (c *call) formToken() []byte {
	mac := hmac.New(sha256.New, []byte(c.secret))
	mac.Write([]byte("forms of this session"))
	return mac.Sum(nil)[:16]
}

// csrf returns the session's form token under a new random mask. Otherwise an attacker whose text
// is in the page could find the token bit by bit from the size of the compressed page.
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

// checkCSRF returns an error for a form without the token of the session.
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
