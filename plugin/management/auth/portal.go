package auth

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
)

// PortalRole is the role of a tenant's person at the console.
type PortalRole string

// The roles: a viewer reads, an editor also creates and changes keys and webhooks.
const (
	PortalViewer PortalRole = "viewer"
	PortalEditor PortalRole = "editor"
)

// portalScopes holds the scopes of each role.
var portalScopes = map[PortalRole][]string{
	PortalViewer: {"tenants:read", "keys:read", "usage:read", "audit:read", "webhooks:read", "verify"},
	PortalEditor: {"tenants:read", "keys:read", "keys:write", "usage:read", "audit:read", "webhooks:read", "webhooks:write", "verify"},
}

const (
	portalIDPrefix     = "lnk_"
	portalSecretPrefix = "kgp_"

	// PortalLife is how long a link can be used by default. MinPortalLife and MaxPortalLife bound
	// the time that a request may state.
	PortalLife    = 5 * time.Minute
	MinPortalLife = 10 * time.Second
	MaxPortalLife = time.Hour

	maxReturnURL = 2048
)

// CodePortalLink is the error code of a portal link that can't be used.
const CodePortalLink = "portal_link_invalid"

// ErrPortalLink is returned for a link that was used, has expired, or never existed. It does not
// disclose which.
var ErrPortalLink = management.Reject(http.StatusUnauthorized, CodePortalLink,
	"This link has been used or has expired. Go back to where you came from and ask for a new one.")

// PortalFields holds the fields of a request for a portal link.
type PortalFields struct {
	// Actor is the name of the person who gets access, as the audit shows it, 1 to 100 characters.
	// Required.
	Actor management.Optional[string]
	// Role is the person's role. Default: PortalViewer.
	Role management.Optional[string]
	// ReturnURL is the http or https URL of the product to which the console links back. Default
	// and null: no link.
	ReturnURL management.Optional[string]
	// ExpiresIn is how long the link can be used, MinPortalLife to MaxPortalLife. Default and
	// null: PortalLife.
	ExpiresIn management.Optional[time.Duration]
}

// IssuedPortalLink is a new portal link. Its Secret, which is not stored, gives one person access
// once.
type IssuedPortalLink struct {
	Secret    string
	ExpiresAt time.Time
}

// CreatePortalLink creates a link with which one person of a tenant can enter the console, once.
// The person's session is confined to the tenant and the role, and ends with the token that
// created the link.
func (auth *Authority) CreatePortalLink(ctx context.Context, a management.Actor, keyspace, slug string, in PortalFields) (r IssuedPortalLink, err error) {
	err = auth.write(ctx, a, keyspace, func(c *call) error {
		t, err := c.FindTenant(slug, false)
		if err != nil {
			return err
		}
		issuer, err := c.Issuer()
		if err != nil {
			return err
		}
		l := &PortalLink{
			ID: c.NewID(portalIDPrefix), Keyspace: c.Keyspace.Name, Tenant: t.Slug, Token: a.Token,
			Name: in.Actor.Value, Role: PortalViewer, ReturnURL: in.ReturnURL.Value, CreatedAt: c.Now,
		}
		var f management.Faults
		management.CheckName(&f, "actor", l.Name, management.MaxKeyName)
		if in.Role.Set && !in.Role.Null {
			if l.Role = PortalRole(in.Role.Value); portalScopes[l.Role] == nil {
				f.Invalid("role", "must be viewer or editor")
			}
		}
		if wrong := checkReturnURL(l.ReturnURL); wrong != "" {
			f.Invalid("return_url", "%s", wrong)
		}
		c.CheckSecret(&f, "actor", l.Name)
		c.CheckSecret(&f, "return_url", l.ReturnURL)
		life := PortalLife
		if in.ExpiresIn.Set && !in.ExpiresIn.Null {
			if life = in.ExpiresIn.Value; life < MinPortalLife || life > MaxPortalLife {
				f.Invalid("expires_in", "must be between 10s and 1h")
			}
		}
		if err := f.Err(); err != nil {
			return err
		}
		if l.ExpiresAt = c.Now.Add(life); issuer != nil && !issuer.ExpiresAt.IsZero() && issuer.ExpiresAt.Before(l.ExpiresAt) {
			l.ExpiresAt = issuer.ExpiresAt
		}
		r = IssuedPortalLink{Secret: portalSecretPrefix + rand.Text() + rand.Text(), ExpiresAt: l.ExpiresAt}
		l.Digest = digestOf(r.Secret)
		if err := c.PruneSessions(c.Now.Add(-sessionKept)); err != nil {
			return err
		}
		if err := c.InsertPortalLink(l); err != nil {
			return err
		}
		c.Event = &audit.Event{Action: "portal.link_created", Target: l.ID, Tenant: t.Slug,
			After: audit.Fields{"name": l.Name, "role": string(l.Role), "expires_at": management.TimeOrNull(l.ExpiresAt)}}
		return nil
	})
	if err != nil {
		return IssuedPortalLink{}, err
	}
	return r, nil
}

// checkReturnURL returns a description of the fault of a return URL, "" for none.
func checkReturnURL(s string) string {
	if s == "" {
		return ""
	}
	u, err := url.Parse(s)
	switch {
	case len(s) > maxReturnURL || err != nil || !management.Printable(s) || strings.ContainsAny(s, " \\"):
		return "must be a URL of at most 2048 characters, such as https://app.example.com/settings"
	case u.Scheme != "https" && u.Scheme != "http":
		return "must begin with https:// or http://"
	case u.Hostname() == "" || u.Opaque != "":
		return "must name a host"
	case u.User != nil:
		return "must not hold a user name or password"
	}
	return ""
}

// PortalGuest describes the person to whom a portal link gives access.
type PortalGuest struct {
	Name   string
	Tenant string
	Role   PortalRole
}

// PortalLink returns the person to whom a link gives access, and does not use the link. It returns
// ErrPortalLink where UsePortalLink would.
func (auth *Authority) PortalLink(ctx context.Context, keyspace, secret string) (g PortalGuest, err error) {
	if !isPortalSecret(secret) {
		return g, ErrPortalLink
	}
	err = auth.read(ctx, management.Actor{}, keyspace, func(c *call) error {
		l, err := c.Tx.PortalLink(c.Keyspace.Name, digestOf(secret))
		s := &Session{Kind: SessionByPortal, Keyspace: c.Keyspace.Name, ExpiresAt: c.Now.Add(SessionLife), LastUsedAt: c.Now}
		if err := c.admit(s, l, err); err != nil {
			return err
		}
		g = PortalGuest{Name: l.Name, Tenant: l.Tenant, Role: l.Role}
		return nil
	})
	return g, err
}

func isPortalSecret(s string) bool { return strings.HasPrefix(s, portalSecretPrefix) && len(s) <= 200 }

// UsePortalLink exchanges the secret of a link for a session. It returns ErrPortalLink for a link
// that was used before, has expired, or does not exist in this keyspace. Of concurrent calls for
// one link, one succeeds.
func (auth *Authority) UsePortalLink(ctx context.Context, keyspace, secret, ip string) (IssuedSession, error) {
	if !isPortalSecret(secret) {
		return IssuedSession{}, ErrPortalLink
	}
	s := &Session{Kind: SessionByPortal}
	var issued IssuedSession
	err := auth.lookUpUnknown(ctx, ip, func() (err error) {
		issued, err = auth.usePortalLink(ctx, keyspace, secret, ip, s)
		return err
	})
	return issued, err
}

func (auth *Authority) usePortalLink(ctx context.Context, keyspace, secret, ip string, s *Session) (IssuedSession, error) {
	return auth.beginSession(ctx, keyspace, s, ip, func(c *call) error {
		l, err := c.Tx.UsePortalLink(c.Keyspace.Name, digestOf(secret), c.Now)
		return c.admit(s, l, err)
	})
}

// admit fills in a new session from its link, and returns ErrPortalLink where the link can't be
// used. err is the error of reading the link.
func (c *call) admit(s *Session, l *PortalLink, err error) error {
	if errors.Is(err, gateway.ErrNotFound) || err == nil && !l.ExpiresAt.After(c.Now) {
		return ErrPortalLink
	}
	if err != nil {
		return err
	}
	s.Tenant, s.Token, s.Name, s.ReturnURL = l.Tenant, l.Token, l.Name, l.ReturnURL
	s.Scopes = slices.Clone(portalScopes[l.Role])
	if valid, err := c.sessionValid(s); err != nil || !valid {
		return errors.Join(err, ErrPortalLink)
	}
	return nil
}
