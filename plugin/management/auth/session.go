package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
)

// The kinds of sessions are the three ways in which a session begins.
const (
	// SessionByToken is a session that a person began with a management token. It has the token's
	// rights.
	SessionByToken SessionKind = "token"
	// SessionByIdentity is a session of a person whom a proxy in front of the gateway has
	// identified.
	SessionByIdentity SessionKind = "identity"
	// SessionByPortal is a session that a tenant's person began with a portal link.
	SessionByPortal SessionKind = "portal"
)

// SessionKind is how a session began.
type SessionKind string

const (
	// SessionLife is how long a session lasts at most.
	SessionLife = 12 * time.Hour
	// SessionIdle is how long a session lasts without use.
	SessionIdle = 30 * time.Minute

	// sessionKept is how long ended sessions are listed.
	sessionKept = 7 * 24 * time.Hour

	sessionIDPrefix     = "ses_"
	sessionSecretPrefix = "kgs_"
)

// CodeNoSession is the error code of a session that has ended or never existed.
const CodeNoSession = "no_session"

// ErrNoSession is returned for a session that has ended or never existed.
var ErrNoSession = management.Reject(http.StatusUnauthorized, CodeNoSession, "Your session has ended. Sign in again.")

// SessionGrant holds the rights of a session.
type SessionGrant struct {
	ID       string
	Keyspace string
	Kind     SessionKind
	// Name is the person's name.
	Name string
	// Tenant is the slug of the only tenant that the person can see; "" for all of the keyspace.
	Tenant string
	// Token is the id of the management token with which the session ends; "" where there is none.
	Token     string
	ReturnURL string
	CreatedAt time.Time
	ExpiresAt time.Time
	scopes    []string
}

// Allows reports whether the session has a scope such as "keys:write".
func (g *SessionGrant) Allows(scope string) bool { return management.HasScope(g.scopes, scope) }

// HasScopes reports whether the session's scopes are equal to scopes, in the same order.
func (g *SessionGrant) HasScopes(scopes []string) bool {
	return strings.Join(g.scopes, " ") == strings.Join(scopes, " ")
}

// Actor returns the actor for what the session's person does from the address ip.
func (g *SessionGrant) Actor(ip string) management.Actor {
	a := management.Actor{Name: g.Name, IP: ip, Via: "console", Tenant: g.Tenant, Token: g.Token}
	if g.Kind != SessionByToken {
		a.Scopes = append([]string{}, g.scopes...)
	}
	return a
}

// IssuedSession is a new session with the secret that the browser keeps.
type IssuedSession struct {
	SessionGrant
	Secret string
}

// SessionRecord is a session as the API shows it.
type SessionRecord struct {
	ID   string      `json:"id"`
	Kind SessionKind `json:"kind"`
	Name string      `json:"name"`
	// Tenant is the tenant that the session is confined to; null for none.
	Tenant *string `json:"tenant"`
	// Token is the id of the management token with which the session ends; null where there is
	// none.
	Token  *string  `json:"token"`
	Scopes []string `json:"scopes"`
	// Active reports whether the session is valid. Then it has not ended, expired or been idle for
	// too long, and its token and tenant are valid too.
	Active     bool       `json:"active"`
	CreatedAt  time.Time  `json:"created_at"`
	CreatedIP  *string    `json:"created_ip"`
	ExpiresAt  time.Time  `json:"expires_at"`
	LastUsedAt time.Time  `json:"last_used_at"`
	LastUsedIP *string    `json:"last_used_ip"`
	EndedAt    *time.Time `json:"ended_at"`
}

func sessionFields(s *Session) audit.Fields {
	return audit.Fields{"kind": string(s.Kind), "name": s.Name, "tenant": management.OrNull(s.Tenant), "token": management.OrNull(s.Token), "expires_at": management.TimeOrNull(s.ExpiresAt)}
}

// digestOf returns the SHA-256 of a secret of a session or link, its stored form. The secrets are
// random, so that they can't be guessed from it.
func digestOf(secret string) []byte {
	d := sha256.Sum256([]byte(secret))
	return d[:]
}

// SignIn exchanges a full management token for a session. name is the person's name for the audit;
// "" means the token's name. Another name is an error unless the token has the scope act. An
// invalid token is an error as in CheckToken; a token of another keyspace is ErrUnknownToken.
func (auth *Authority) SignIn(ctx context.Context, keyspace, token, name, ip string) (IssuedSession, error) {
	ks, err := auth.manager.Keyspace(keyspace)
	if err != nil {
		return IssuedSession{}, err
	}
	g, err := auth.CheckToken(ctx, token, ip)
	if err != nil {
		return IssuedSession{}, err
	}
	if g.Keyspace != ks.Name {
		return IssuedSession{}, management.ErrUnknownToken
	}
	s := &Session{Kind: SessionByToken, Tenant: g.Tenant, Token: g.ID, Name: g.Name + " (" + g.ID + ")"}
	if name != "" {
		var f management.Faults
		switch management.CheckName(&f, "name", name, management.MaxKeyName); {
		case f.Err() != nil:
			return IssuedSession{}, f.Err()
		case !g.Allows("act"):
			f.Add(management.CodeInsufficientScope, "name", "this token lacks the scope act, which it takes to sign in under another name; leave the name empty")
			return IssuedSession{}, f.Err()
		}
		s.Name = name
	}
	return auth.beginSession(ctx, ks.Name, s, ip, func(c *call) error {
		t, err := c.LockToken(ks.Name, g.ID)
		if err != nil {
			return err
		}
		s.Scopes = t.Scopes
		if !t.ExpiresAt.IsZero() && t.ExpiresAt.Before(s.ExpiresAt) {
			s.ExpiresAt = t.ExpiresAt
		}
		return t.RejectedAt(c.Now)
	})
}

// SignInAs begins a session, with these scopes, for a person whom a proxy in front of the gateway
// has identified.
func (auth *Authority) SignInAs(ctx context.Context, keyspace, name string, scopes []string, ip string) (IssuedSession, error) {
	var f management.Faults
	if management.CheckName(&f, "name", name, management.MaxKeyName); f.Err() != nil {
		return IssuedSession{}, f.Err()
	}
	s := &Session{Kind: SessionByIdentity, Name: name, Scopes: scopes}
	return auth.beginSession(ctx, keyspace, s, ip, nil)
}

// beginSession stores a new session. It calls check before, where that is not nil, and returns its
// error.
func (auth *Authority) beginSession(ctx context.Context, keyspace string, s *Session, ip string, check func(*call) error) (r IssuedSession, err error) {
	who := management.Actor{Name: s.Name, IP: ip, Via: "console", Tenant: s.Tenant, Token: s.Token}
	err = auth.write(ctx, who, keyspace, func(c *call) error {
		s.ID, s.Keyspace = c.NewID(sessionIDPrefix), c.Keyspace.Name
		s.CreatedAt, s.CreatedIP, s.LastUsedAt, s.LastUsedIP = c.Now, ip, c.Now, ip
		s.ExpiresAt = c.Now.Add(SessionLife)
		if check != nil {
			if err := check(c); err != nil {
				return err
			}
		}
		c.Actor.Name, c.Actor.Tenant, c.Actor.Token = s.Name, s.Tenant, s.Token
		r.Secret = sessionSecretPrefix + rand.Text() + rand.Text()
		s.Digest = digestOf(r.Secret)
		if err := c.PruneSessions(c.Now.Add(-sessionKept)); err != nil {
			return err
		}
		if err := c.InsertSession(s); err != nil {
			return err
		}
		c.Event = &audit.Event{Action: "session.started", Target: s.ID, Tenant: s.Tenant, After: sessionFields(s)}
		r.SessionGrant = *sessionGrant(s)
		return nil
	})
	if err != nil {
		return IssuedSession{}, err
	}
	return r, nil
}

func sessionGrant(s *Session) *SessionGrant {
	return &SessionGrant{
		ID: s.ID, Keyspace: s.Keyspace, Kind: s.Kind, Name: s.Name, Tenant: s.Tenant, Token: s.Token,
		ReturnURL: s.ReturnURL, CreatedAt: s.CreatedAt, ExpiresAt: s.ExpiresAt, scopes: s.Scopes,
	}
}

// CheckSession returns the rights of the session whose secret a browser sent. It returns
// ErrNoSession where no valid session of the keyspace has the secret. It reads the store each
// time, so that the end of a session takes effect at once. ip is stored as the address of the
// session's last use.
func (auth *Authority) CheckSession(ctx context.Context, keyspace, secret, ip string) (*SessionGrant, error) {
	if !strings.HasPrefix(secret, sessionSecretPrefix) || len(secret) > 200 {
		return nil, ErrNoSession
	}
	var s *Session
	var valid bool
	now := auth.manager.Clock()
	digest := digestOf(secret)
	read := func() error {
		err := auth.read(ctx, management.Actor{}, keyspace, func(c *call) (err error) {
			if s, err = c.SessionByDigest(digest); err != nil {
				return err
			}
			valid, err = c.sessionValid(s)
			return err
		})
		if errors.Is(err, gateway.ErrNotFound) || err == nil && !valid {
			return ErrNoSession
		}
		return err
	}
	var err error
	if auth.sessions.has(digest) {
		err = read()
	} else {
		err = auth.lookUpUnknown(ctx, ip, read)
	}
	auth.sessions.record(digest, err == nil)
	if err != nil {
		return nil, err
	}
	if now.Sub(s.LastUsedAt) >= usageInterval {
		auth.inBackground(func(tx Tx) error { return tx.TouchSession(s.ID, now, ip) })
	}
	return sessionGrant(s), nil
}

// sessionValid reports whether a session is still valid. It sets the scopes of a session of the
// kind SessionByToken to its token's.
func (c *call) sessionValid(s *Session) (bool, error) {
	if s.Keyspace != c.Keyspace.Name || !s.EndedAt.IsZero() || !s.ExpiresAt.After(c.Now) || !s.LastUsedAt.Add(SessionIdle).After(c.Now) {
		return false, nil
	}
	if s.Token != "" {
		t, err := c.Token(c.Keyspace.Name, s.Token)
		switch {
		case errors.Is(err, gateway.ErrNotFound):
			return false, nil
		case err != nil:
			return false, err
		case t.RejectedAt(c.Now) != nil:
			return false, nil
		case s.Kind == SessionByToken:
			s.Scopes = t.Scopes
		}
	}
	if s.Tenant != "" {
		t, err := c.Tenant(c.Keyspace.Name, s.Tenant)
		switch {
		case errors.Is(err, gateway.ErrNotFound):
			return false, nil
		case err != nil:
			return false, err
		case !t.DeletedAt.IsZero():
			return false, nil
		}
	}
	return true, nil
}

// EndSession ends a session. Ending one that has ended changes nothing and is no error.
func (auth *Authority) EndSession(ctx context.Context, a management.Actor, keyspace, id string) error {
	const kind = "session"
	return auth.write(ctx, a, keyspace, func(c *call) error {
		if !management.HasIDForm(id, sessionIDPrefix) {
			return management.NotFound(kind)
		}
		s, err := c.Session(c.Keyspace.Name, id)
		if err != nil {
			return management.OrNotFound(err, kind)
		}
		if !a.Sees(s.Tenant) {
			return management.NotFound(kind)
		}
		// The actor needs the scopes of a valid session only: ending an invalid one changes
		// nothing.
		if valid, err := c.sessionValid(s); err != nil {
			return err
		} else if valid {
			if err := c.CheckMayEnd(s.Scopes); err != nil {
				return err
			}
		}
		ended, err := c.Tx.EndSession(c.Keyspace.Name, id, c.Now)
		if err != nil || !ended {
			return err
		}
		c.Event = &audit.Event{Action: "session.ended", Target: s.ID, Tenant: s.Tenant, Before: sessionFields(s)}
		return nil
	})
}

// SessionFilter selects sessions, newest first.
type SessionFilter struct {
	// Tenant is the slug of the tenant whose sessions are listed; "" lists the sessions of all.
	Tenant string
	management.PageQuery
}

// Sessions lists sessions, also those that ended within the last week.
func (auth *Authority) Sessions(ctx context.Context, a management.Actor, keyspace string, q SessionFilter) (management.Page[SessionRecord], error) {
	limit, last, err := q.After("s")
	if err != nil {
		return management.Page[SessionRecord]{}, err
	}
	if a.Tenant != "" {
		q.Tenant = a.Tenant
	}
	var out []SessionRecord
	err = auth.read(ctx, a, keyspace, func(c *call) error {
		out = nil
		rows, err := c.Tx.Sessions(SessionQuery{Keyspace: c.Keyspace.Name, Tenant: q.Tenant, Before: last, Limit: limit + 1})
		for _, s := range rows {
			valid, err := c.sessionValid(s)
			if err != nil {
				return err
			}
			out = append(out, SessionRecord{
				ID: s.ID, Kind: s.Kind, Name: s.Name, Tenant: management.OrNull(s.Tenant), Token: management.OrNull(s.Token), Scopes: management.OrEmpty(s.Scopes), Active: valid,
				CreatedAt: s.CreatedAt.UTC(), CreatedIP: management.OrNull(s.CreatedIP), ExpiresAt: s.ExpiresAt.UTC(),
				LastUsedAt: s.LastUsedAt.UTC(), LastUsedIP: management.OrNull(s.LastUsedIP), EndedAt: management.TimeOrNull(s.EndedAt),
			})
		}
		return err
	})
	if err != nil {
		return management.Page[SessionRecord]{}, err
	}
	return management.CutPage(out, limit, func(r SessionRecord) string { return management.CursorOf("s", r.ID) }), nil
}
