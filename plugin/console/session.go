package console

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/auth"
)

var (
	errNoPage = &management.Error{Status: http.StatusNotFound, Code: management.CodeNotFound,
		Detail: "There is nothing at this address. It may have been deleted, or the link is not complete."}
	errNotSecure = &management.Error{Status: http.StatusForbidden, Code: "not_secure",
		Detail: "The console is served by HTTPS only, except on this very machine: what is typed here could be read on the way. " +
			"Open it by https://. Where a proxy in front of this one speaks HTTPS, name that proxy in trusted_proxies."}
)

// cookieName is the session's cookie's. With the prefix, a browser takes it by HTTPS and for
// this host alone; on this machine itself there may be no HTTPS.
func (c *call) cookieName() string {
	if c.secure() {
		return "__Host-" + c.h.opts.Cookie
	}
	return c.h.opts.Cookie
}

// setCookie gives the browser a session's secret; "" takes it away.
func (c *call) setCookie(secret string) {
	cookie := &http.Cookie{Name: c.cookieName(), Value: secret, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: c.secure()}
	if secret == "" {
		cookie.MaxAge = -1
	}
	http.SetCookie(c.w, cookie)
}

// identified returns who the proxy in front says is there; "" where it says nobody.
func (c *call) identified() string {
	id := c.h.opts.Identity
	if id == nil {
		return ""
	}
	sent := c.r.Header.Values(id.Header)
	if len(sent) != 1 {
		return "" // of two nobody knows which the proxy wrote
	}
	return strings.TrimSpace(sent[0])
}

// signedIn finds the session of the request, or begins one for whom a proxy in front has identified.
func (c *call) signedIn() (*auth.SessionGrant, error) {
	if c.grant != nil {
		return c.grant, nil
	}
	if !c.secure() && !c.loopback() {
		return nil, errNotSecure
	}
	// A form must be of a session that was there before it was sent.
	return c.resume(c.r.Method != http.MethodPost)
}

// resume makes the request's session the call's. Where there is none and begin is true, one begins for the person
// whom a proxy in front has identified.
func (c *call) resume(begin bool) (*auth.SessionGrant, error) {
	g, secret, err := c.session()
	if errors.Is(err, auth.ErrNoSession) {
		if name := c.identified(); name != "" && begin {
			var s auth.IssuedSession
			s, err = c.h.auth.SignInAs(c.ctx, c.h.opts.Keyspace, name, c.h.opts.Identity.Scopes, c.ip)
			if err == nil {
				c.setCookie(s.Secret)
				g, secret = &s.SessionGrant, s.Secret
			}
		}
	}
	if err != nil {
		return nil, err
	}
	c.grant, c.actor, c.secret = g, g.Actor(c.ip), secret
	return g, nil
}

// session returns what the browser's cookie gives, ErrNoSession for nothing.
func (c *call) session() (*auth.SessionGrant, string, error) {
	cookies := c.r.CookiesNamed(c.cookieName())
	if len(cookies) != 1 {
		return nil, "", auth.ErrNoSession
	}
	secret := cookies[0].Value
	g, err := c.h.auth.CheckSession(c.ctx, c.h.opts.Keyspace, secret, c.ip)
	if err != nil {
		return nil, "", err
	}
	if g.Kind == auth.SessionByIdentity {
		// It is the proxy's word for as long as the proxy stands by it, with what it is given now.
		if id := c.h.opts.Identity; id == nil || c.identified() != g.Name || !g.HasScopes(id.Scopes) {
			return nil, "", auth.ErrNoSession
		}
	}
	return g, secret, nil
}

// begin makes the session the browser's, in place of one that it had.
func (c *call) begin(s auth.IssuedSession) error {
	if old, _, err := c.session(); err == nil {
		if err := c.h.auth.EndSession(c.ctx, old.Actor(c.ip), c.h.opts.Keyspace, old.ID); err != nil {
			return err
		}
	}
	c.setCookie(s.Secret)
	return nil
}

// signInPage is what the page for signing in shows.
type signInPage struct {
	Form *form
	// To is where one wanted to go.
	To    string
	Wrong string
}

func (c *call) showSignIn() error {
	if !c.secure() && !c.loopback() {
		return errNotSecure
	}
	return c.render(http.StatusOK, "signin", "Sign in", signInPage{Form: newForm(nil), To: c.wanted(c.r.URL.Query().Get("to"))})
}

// wanted returns where to go after signing in: a path of ours, or "/".
func (c *call) wanted(to string) string {
	u, err := url.Parse(to)
	if err != nil || u.Scheme != "" || u.Host != "" || !strings.HasPrefix(to, "/") || strings.HasPrefix(to, "//") || strings.ContainsAny(to, "\\\r\n\t") {
		return "/"
	}
	return to
}

func (c *call) signIn() error {
	if !c.secure() && !c.loopback() {
		return errNotSecure
	}
	f := newForm(c.r.PostForm)
	to := c.wanted(f.Value("to"))
	token := strings.TrimSpace(f.Value("token"))
	f.forget("token")
	s, err := c.h.auth.SignIn(c.ctx, c.h.opts.Keyspace, token, strings.TrimSpace(f.Value("name")), c.ip)
	if err != nil {
		return c.refuseEntry(err, management.ErrUnknownToken, func(e *management.Error) error {
			page := signInPage{Form: f, To: to}
			if !f.take(e) {
				f.errors["token"] = e.Detail
			}
			return c.render(e.Status, "signin", "Sign in", page)
		})
	}
	if err := c.begin(s); err != nil {
		return err
	}
	return c.redirect(to, "")
}

// refuseEntry answers who showed what does not let them in, by page. guess is the error by which
// one could try.
func (c *call) refuseEntry(err, guess error, page func(*management.Error) error) error {
	var e *management.Error
	if !errors.As(err, &e) {
		return err
	}
	if failed := c.h.opts.Failed; failed != nil && errors.Is(err, guess) {
		if ok, retry := failed(c.addr); !ok {
			e = &management.Error{Status: http.StatusTooManyRequests, Code: "too_many_failures", RetryAfter: retry,
				Detail: "Too many failed attempts from this address. Try again in a few minutes."}
			c.w.Header().Set("Retry-After", itoa(int64((retry+time.Second-1)/time.Second)))
		}
	}
	return page(e)
}

func (c *call) signOut() error {
	if err := c.h.auth.EndSession(c.ctx, c.actor, c.h.opts.Keyspace, c.grant.ID); err != nil {
		return err
	}
	back := c.grant.ReturnURL
	portal := c.grant.Kind == auth.SessionByPortal
	c.setCookie("")
	c.w.Header().Set("Clear-Site-Data", `"cache"`)
	c.grant, c.actor = nil, management.Actor{}
	return c.render(http.StatusOK, "signedout", "Signed out", signedOutPage{Back: back, Portal: portal})
}

type signedOutPage struct {
	Back   string
	Portal bool
}

// portalPage is what the page shows that a portal link leads to.
type portalPage struct{ Form *form }

func (c *call) showPortal() error {
	if !c.secure() && !c.loopback() {
		return errNotSecure
	}
	return c.render(http.StatusOK, "portal", "Opening", portalPage{newForm(nil)})
}

func (c *call) enterPortal() error {
	if !c.secure() && !c.loopback() {
		return errNotSecure
	}
	f := newForm(c.r.PostForm)
	code := strings.TrimSpace(f.Value("code"))
	f.forget("code")
	// Whoever has no script pastes the link as a whole.
	if _, fragment, ok := strings.Cut(code, "#"); ok {
		code = fragment
	}
	rejected := func(err error) error {
		return c.refuseEntry(err, auth.ErrPortalLink, func(e *management.Error) error {
			f.errors["code"] = e.Detail
			return c.render(e.Status, "portal", "This link can't be used", portalPage{f})
		})
	}
	guest, err := c.h.auth.PortalLink(c.ctx, c.h.opts.Keyspace, code)
	if err != nil {
		return rejected(err)
	}
	present, err := c.resume(true)
	if err != nil && !errors.Is(err, auth.ErrNoSession) {
		return err
	}
	if present != nil && !isGuest(present, guest) && (f.Value(replaceField) == "" || c.checkCSRF() != nil) {
		return c.render(http.StatusOK, "portal-replace", "Sign in as another person?", replacePage{Guest: guest, Code: code})
	}
	s, err := c.h.auth.UsePortalLink(c.ctx, c.h.opts.Keyspace, code, c.ip)
	if err != nil {
		return rejected(err)
	}
	if err := c.begin(s); err != nil {
		return err
	}
	return c.redirect("/", "")
}

// replaceField is in the form by which a person agrees that a portal link replaces their session.
const replaceField = "replace"

// replacePage asks whether a portal link may replace the present session.
type replacePage struct {
	Guest auth.PortalGuest
	// Code is the link's secret, which is not used yet.
	Code string
}

// isGuest reports whether a session is that of the person whom a portal link lets in.
func isGuest(g *auth.SessionGrant, guest auth.PortalGuest) bool {
	return g.Kind == auth.SessionByPortal && g.Tenant == guest.Tenant && g.Name == guest.Name
}

// sessionsPage lists sessions.
type sessionsPage struct {
	List []auth.SessionRecord
	Next string
	// Own is the id of the session that looks.
	Own string
}

func (c *call) listSessions() error {
	page, err := c.h.auth.Sessions(c.ctx, c.actor, c.h.opts.Keyspace, auth.SessionFilter{PageQuery: c.page()})
	if err != nil {
		return err
	}
	p := sessionsPage{List: page.Data, Own: c.grant.ID, Next: c.next(page.NextCursor)}
	// Those that are good first: they are what one is here for.
	slices.SortStableFunc(p.List, func(a, b auth.SessionRecord) int {
		switch {
		case a.Active == b.Active:
			return 0
		case a.Active:
			return -1
		}
		return 1
	})
	return c.render(http.StatusOK, "sessions", "Sessions", p)
}

func (c *call) endSession() error {
	if err := c.h.auth.EndSession(c.ctx, c.actor, c.h.opts.Keyspace, c.r.PathValue("id")); err != nil {
		return err
	}
	return c.redirect("/sessions", "session-ended")
}
