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
		Detail: "The console accepts only HTTPS, except on this machine, since others could read what you type over HTTP. " +
			"Open it with https://. If a proxy in front of the gateway serves HTTPS, name that proxy in trusted_proxies."}
)

// cookieName returns the name of the session's cookie. Browsers accept a name with the prefix only
// over HTTPS and only for this host. Over loopback HTTP, the name has no prefix.
func (c *call) cookieName() string {
	if c.secure() {
		return "__Host-" + c.h.opts.Cookie
	}
	return c.h.opts.Cookie
}

// setCookie sets the cookie to a session's secret. "" removes the cookie.
func (c *call) setCookie(secret string) {
	cookie := &http.Cookie{Name: c.cookieName(), Value: secret, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: c.secure()}
	if secret == "" {
		cookie.MaxAge = -1
	}
	http.SetCookie(c.w, cookie)
}

// identified returns the name of the person whom the trusted proxy authenticated, or "".
func (c *call) identified() string {
	id := c.h.opts.Identity
	if id == nil {
		return ""
	}
	sent := c.r.Header.Values(id.Header)
	if len(sent) != 1 {
		return "" // If the header has two values, a client may have sent one of them, so neither is trusted.
	}
	return strings.TrimSpace(sent[0])
}

// signedIn returns the session of the request. It begins one for a person whom the trusted proxy
// authenticated, except for a POST.
func (c *call) signedIn() (*auth.SessionGrant, error) {
	if c.grant != nil {
		return c.grant, nil
	}
	if !c.secure() && !c.loopback() {
		return nil, errNotSecure
	}
	// A form must belong to a session that existed before the form was sent.
	return c.resume(c.r.Method != http.MethodPost)
}

// resume sets the call's session. If the request has none and begin is true, resume begins a
// session for the person whom the trusted proxy authenticated.
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

// session returns the session of the browser's cookie, or ErrNoSession.
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
		// A session of a person whom the proxy authenticated is valid only while two conditions hold: the proxy names the same
		// person, and the session has the configured scopes.
		if id := c.h.opts.Identity; id == nil || c.identified() != g.Name || !g.HasScopes(id.Scopes) {
			return nil, "", auth.ErrNoSession
		}
	}
	return g, secret, nil
}

// begin sends the session's cookie to the browser, and ends the session that the browser had
// before.
func (c *call) begin(s auth.IssuedSession) error {
	if old, _, err := c.session(); err == nil {
		if err := c.h.auth.EndSession(c.ctx, old.Actor(c.ip), c.h.opts.Keyspace, old.ID); err != nil {
			return err
		}
	}
	c.setCookie(s.Secret)
	return nil
}

// signInPage is the page for signing in.
type signInPage struct {
	Form *form
	// To is the page to show after the person has signed in.
	To    string
	Wrong string
}

func (c *call) showSignIn() error {
	if !c.secure() && !c.loopback() {
		return errNotSecure
	}
	return c.render(http.StatusOK, "signin", "Sign in", signInPage{Form: newForm(nil), To: c.wanted(c.r.URL.Query().Get("to"))})
}

// wanted returns the page to show after a person has signed in: to if it is a path of the console,
// or else "/".
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
		return c.rejectSignIn(err, management.ErrUnknownToken, func(e *management.Error) error {
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

// rejectSignIn answers a failed attempt to sign in with page. An attempt whose error is guess
// counts as a guess of the client's address.
func (c *call) rejectSignIn(err, guess error, page func(*management.Error) error) error {
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

// portalPage is the page to which a portal link leads.
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
	// In browsers without scripts, people paste the whole link.
	if _, fragment, ok := strings.Cut(code, "#"); ok {
		code = fragment
	}
	rejected := func(err error) error {
		return c.rejectSignIn(err, auth.ErrPortalLink, func(e *management.Error) error {
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

// replaceField is the form field with which a person confirms that a portal link replaces the
// current session.
const replaceField = "replace"

// replacePage asks whether a portal link may replace the current session.
type replacePage struct {
	Guest auth.PortalGuest
	// Code is the secret of the link, which is still unused.
	Code string
}

// isGuest reports whether the session belongs to the person of the portal link.
func isGuest(g *auth.SessionGrant, guest auth.PortalGuest) bool {
	return g.Kind == auth.SessionByPortal && g.Tenant == guest.Tenant && g.Name == guest.Name
}

// sessionsPage is the page that lists sessions.
type sessionsPage struct {
	List []auth.SessionRecord
	Next string
	// Own is the id of the current session.
	Own string
}

func (c *call) listSessions() error {
	page, err := c.h.auth.Sessions(c.ctx, c.actor, c.h.opts.Keyspace, auth.SessionFilter{PageQuery: c.page()})
	if err != nil {
		return err
	}
	p := sessionsPage{List: page.Data, Own: c.grant.ID, Next: c.next(page.NextCursor)}
	// Valid sessions come first.
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
