package management

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management/audit"
)

// A session begins in one of three ways, and its kind says which.
const (
	// SessionByToken was exchanged for a management token, whose rights it has.
	SessionByToken SessionKind = "token"
	// SessionByIdentity was begun for whom a proxy in front has identified.
	SessionByIdentity SessionKind = "identity"
	// SessionByPortal was begun by a portal link, for a tenant's person.
	SessionByPortal SessionKind = "portal"
)

// SessionKind is how a session began.
type SessionKind string

const (
	// SessionLife is after how long a session ends in any case.
	SessionLife = 12 * time.Hour
	// SessionIdle is after how long without use it ends.
	SessionIdle = 30 * time.Minute

	// sessionKept is for how long ended sessions are listed.
	sessionKept = 7 * 24 * time.Hour

	sessionIDPrefix     = "ses_"
	sessionSecretPrefix = "kgs_"
)

// CodeNoSession says that a browser's session has ended or never was.
const CodeNoSession = "no_session"

// ErrNoSession refuses a session that is none, or none any more.
var ErrNoSession = reject(http.StatusUnauthorized, CodeNoSession, "Your session has ended. Sign in again.")

// SessionGrant is what a session gives.
type SessionGrant struct {
	ID       string
	Keyspace string
	Kind     SessionKind
	// Name of the person.
	Name string
	// Tenant is the only one that exists for the holder; "" for no such bound.
	Tenant string
	// Token is the management token behind it; "" where there is none.
	Token     string
	ReturnURL string
	CreatedAt time.Time
	ExpiresAt time.Time
	scopes    []string
}

// Allows says whether the session has a scope such as "keys:write".
func (g *SessionGrant) Allows(scope string) bool { return hasScope(g.scopes, scope) }

// HasScopes says whether the session's scopes are just these, in this order.
func (g *SessionGrant) HasScopes(scopes []string) bool {
	return strings.Join(g.scopes, " ") == strings.Join(scopes, " ")
}

// Actor returns the person as who does something.
func (g *SessionGrant) Actor(ip string) Actor {
	a := Actor{Name: g.Name, IP: ip, Via: "console", Tenant: g.Tenant, Token: g.Token}
	if g.Kind != SessionByToken {
		a.Scopes = append([]string{}, g.scopes...)
	}
	return a
}

// IssuedSession is a session that begins, with the secret that the browser holds.
type IssuedSession struct {
	SessionGrant
	Secret string
}

// SessionRecord is a session as it is shown.
type SessionRecord struct {
	ID   string      `json:"id"`
	Kind SessionKind `json:"kind"`
	Name string      `json:"name"`
	// Tenant it is confined to; null for none.
	Tenant *string `json:"tenant"`
	// Token that it ends with; null where there is none.
	Token  *string  `json:"token"`
	Scopes []string `json:"scopes"`
	// Active says that it is good: not ended, expired or idle for too long, and its token neither.
	Active     bool       `json:"active"`
	CreatedAt  time.Time  `json:"created_at"`
	CreatedIP  *string    `json:"created_ip"`
	ExpiresAt  time.Time  `json:"expires_at"`
	LastUsedAt time.Time  `json:"last_used_at"`
	LastUsedIP *string    `json:"last_used_ip"`
	EndedAt    *time.Time `json:"ended_at"`
}

func sessionFields(s *Session) audit.Fields {
	return audit.Fields{"kind": string(s.Kind), "name": s.Name, "tenant": optional(s.Tenant), "token": optional(s.Token), "expires_at": optionalTime(s.ExpiresAt)}
}

// digestOf is how secrets of sessions and links are stored: they are random, so that
// nothing can be guessed from it.
func digestOf(secret string) []byte {
	d := sha256.Sum256([]byte(secret))
	return d[:]
}

// SignIn exchanges a full management token for a session. name is the person's for the
// audit; "" for the token's own, and another is refused unless the token may act for others.
// Refusals of the token are those of CheckToken; a token of another keyspace is ErrUnknownToken.
func (m *Manager) SignIn(ctx context.Context, keyspace, token, name, ip string) (IssuedSession, error) {
	ks, _, err := m.keyspace(keyspace)
	if err != nil {
		return IssuedSession{}, err
	}
	g, err := m.CheckToken(ctx, token, ip)
	if err != nil {
		return IssuedSession{}, err
	}
	if g.Keyspace != ks.Name {
		return IssuedSession{}, ErrUnknownToken
	}
	s := &Session{Kind: SessionByToken, Tenant: g.Tenant, Token: g.ID, Name: g.Name + " (" + g.ID + ")"}
	if name != "" {
		var f faults
		switch checkName(&f, "name", name, MaxKeyName); {
		case f.err() != nil:
			return IssuedSession{}, f.err()
		case !g.Allows("act"):
			f.add(CodeInsufficientScope, "name", "this token lacks the scope act, which it takes to sign in under another name; leave the name empty")
			return IssuedSession{}, f.err()
		}
		s.Name = name
	}
	return m.beginSession(ctx, ks.Name, s, ip, func(c *call) error {
		t, err := c.LockToken(ks.Name, g.ID)
		if err != nil {
			return err
		}
		s.Scopes = t.Scopes
		if !t.ExpiresAt.IsZero() && t.ExpiresAt.Before(s.ExpiresAt) {
			s.ExpiresAt = t.ExpiresAt
		}
		return t.rejectedAt(c.now)
	})
}

// SignInAs begins a session for whom a proxy in front has identified, with these scopes.
func (m *Manager) SignInAs(ctx context.Context, keyspace, name string, scopes []string, ip string) (IssuedSession, error) {
	var f faults
	if checkName(&f, "name", name, MaxKeyName); f.err() != nil {
		return IssuedSession{}, f.err()
	}
	s := &Session{Kind: SessionByIdentity, Name: name, Scopes: scopes}
	return m.beginSession(ctx, keyspace, s, ip, nil)
}

// beginSession stores a session after check, where it is not nil, has agreed.
func (m *Manager) beginSession(ctx context.Context, keyspace string, s *Session, ip string, check func(*call) error) (r IssuedSession, err error) {
	who := Actor{Name: s.Name, IP: ip, Via: "console", Tenant: s.Tenant, Token: s.Token}
	err = m.write(ctx, who, keyspace, func(c *call) error {
		s.ID, s.Keyspace = m.ids.next(sessionIDPrefix, c.now), c.ks.Name
		s.CreatedAt, s.CreatedIP, s.LastUsedAt, s.LastUsedIP = c.now, ip, c.now, ip
		s.ExpiresAt = c.now.Add(SessionLife)
		if check != nil {
			if err := check(c); err != nil {
				return err
			}
		}
		c.actor.Name, c.actor.Tenant, c.actor.Token = s.Name, s.Tenant, s.Token
		r.Secret = sessionSecretPrefix + rand.Text() + rand.Text()
		s.Digest = digestOf(r.Secret)
		if err := c.PruneSessions(c.now.Add(-sessionKept)); err != nil {
			return err
		}
		if err := c.InsertSession(s); err != nil {
			return err
		}
		c.event = &audit.Event{Action: "session.started", Target: s.ID, Tenant: s.Tenant, After: sessionFields(s)}
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

// CheckSession returns what the session of a browser's secret gives: ErrNoSession where it
// gives nothing in this keyspace. It reads the store each time, so that an end counts from when it is made. ip is
// noted as where the session was last used from.
func (m *Manager) CheckSession(ctx context.Context, keyspace, secret, ip string) (*SessionGrant, error) {
	if !strings.HasPrefix(secret, sessionSecretPrefix) || len(secret) > 200 {
		return nil, ErrNoSession
	}
	var s *Session
	var good bool
	now := m.clock()
	digest := digestOf(secret)
	read := func() error {
		err := m.read(ctx, Actor{}, keyspace, func(c *call) (err error) {
			if s, err = c.SessionByDigest(digest); err != nil {
				return err
			}
			good, err = c.sessionValid(s)
			return err
		})
		if errors.Is(err, gateway.ErrNotFound) || err == nil && !good {
			return ErrNoSession
		}
		return err
	}
	var err error
	if m.sessions.has(digest) {
		err = read()
	} else {
		err = m.lookUpUnknown(ctx, ip, read)
	}
	m.sessions.note(digest, err == nil)
	if err != nil {
		return nil, err
	}
	if now.Sub(s.LastUsedAt) >= usageInterval {
		m.inBackground(func(tx Tx) error { return tx.TouchSession(s.ID, now, ip) })
	}
	return sessionGrant(s), nil
}

// sessionValid says whether a session still gives anything, and fills in the scopes that it has by its token.
func (c *call) sessionValid(s *Session) (bool, error) {
	if s.Keyspace != c.ks.Name || !s.EndedAt.IsZero() || !s.ExpiresAt.After(c.now) || !s.LastUsedAt.Add(SessionIdle).After(c.now) {
		return false, nil
	}
	if s.Token != "" {
		t, err := c.Tx.Token(c.ks.Name, s.Token)
		switch {
		case errors.Is(err, gateway.ErrNotFound):
			return false, nil
		case err != nil:
			return false, err
		case t.rejectedAt(c.now) != nil:
			return false, nil
		case s.Kind == SessionByToken:
			s.Scopes = t.Scopes
		}
	}
	if s.Tenant != "" {
		t, err := c.Tx.Tenant(c.ks.Name, s.Tenant)
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
func (m *Manager) EndSession(ctx context.Context, a Actor, keyspace, id string) error {
	const what = "session"
	return m.write(ctx, a, keyspace, func(c *call) error {
		if !isID(id, sessionIDPrefix) {
			return notFound(what)
		}
		s, err := c.Session(c.ks.Name, id)
		if err != nil {
			return orNotFound(err, what)
		}
		if !a.Sees(s.Tenant) {
			return notFound(what)
		}
		// The scopes of a session that gives nothing any more are not asked for: ending it changes nothing.
		if good, err := c.sessionValid(s); err != nil {
			return err
		} else if good {
			if err := c.checkMayEnd(s.Scopes); err != nil {
				return err
			}
		}
		ended, err := c.Tx.EndSession(c.ks.Name, id, c.now)
		if err != nil || !ended {
			return err
		}
		c.event = &audit.Event{Action: "session.ended", Target: s.ID, Tenant: s.Tenant, Before: sessionFields(s)}
		return nil
	})
}

// SessionFilter selects sessions, newest first.
type SessionFilter struct {
	// Tenant is a slug; "" for all.
	Tenant string
	PageQuery
}

// Sessions lists sessions, for a week after their end too.
func (m *Manager) Sessions(ctx context.Context, a Actor, keyspace string, q SessionFilter) (Page[SessionRecord], error) {
	limit, last, err := q.after("s")
	if err != nil {
		return Page[SessionRecord]{}, err
	}
	if a.Tenant != "" {
		q.Tenant = a.Tenant
	}
	var out []SessionRecord
	err = m.read(ctx, a, keyspace, func(c *call) error {
		out = nil
		rows, err := c.Tx.Sessions(SessionQuery{Keyspace: c.ks.Name, Tenant: q.Tenant, Before: last, Limit: limit + 1})
		for _, s := range rows {
			good, err := c.sessionValid(s)
			if err != nil {
				return err
			}
			out = append(out, SessionRecord{
				ID: s.ID, Kind: s.Kind, Name: s.Name, Tenant: optional(s.Tenant), Token: optional(s.Token), Scopes: nonNil(s.Scopes), Active: good,
				CreatedAt: s.CreatedAt.UTC(), CreatedIP: optional(s.CreatedIP), ExpiresAt: s.ExpiresAt.UTC(),
				LastUsedAt: s.LastUsedAt.UTC(), LastUsedIP: optional(s.LastUsedIP), EndedAt: optionalTime(s.EndedAt),
			})
		}
		return err
	})
	if err != nil {
		return Page[SessionRecord]{}, err
	}
	return pageOf(out, limit, func(r SessionRecord) string { return cursorOf("s", r.ID) }), nil
}
