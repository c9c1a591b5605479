package auth

import "time"

// Session is a person's session at the console, as stored.
type Session struct {
	ID       string
	Keyspace string
	// Digest is the SHA-256 of the secret that the browser holds.
	Digest []byte
	Kind   SessionKind
	// Tenant is the slug of the only tenant that the person can see; "" for all of the keyspace.
	Tenant string
	// Token is the id of the management token that began the session or created its portal link;
	// "" where there is none. The session ends with this token.
	Token string
	// Name is the person's name.
	Name string
	// Scopes are the person's rights. None are stored for SessionByToken, which has its token's
	// scopes.
	Scopes []string
	// ReturnURL is the URL to which the console links back; "" for none.
	ReturnURL string
	CreatedAt time.Time
	CreatedIP string
	ExpiresAt time.Time
	// LastUsedAt is exact to about a minute.
	LastUsedAt time.Time
	LastUsedIP string
	// EndedAt is when a person ended the session; zero before.
	EndedAt time.Time
}

// PortalLink is a link, as stored, that gives a tenant's person access once.
type PortalLink struct {
	ID       string
	Keyspace string
	// Digest is the SHA-256 of the secret in the link.
	Digest []byte
	Tenant string
	// Token is the id of the management token that created the link; "" where none did.
	Token     string
	Name      string
	Role      PortalRole
	ReturnURL string
	CreatedAt time.Time
	ExpiresAt time.Time
	// UsedAt is zero before the link is used.
	UsedAt time.Time
}

// SessionQuery selects sessions of a keyspace, newest first, including ended ones.
type SessionQuery struct {
	Keyspace string
	Tenant   string // Tenant selects the sessions of one tenant; "" selects the sessions of all.
	Before   string // Before is the id of the last session on the page before.
	Limit    int
}

// SessionTx is the part of Tx for people's sessions at the console.
type SessionTx interface {
	Session(keyspace, id string) (*Session, error)
	// SessionByDigest returns the session, of any keyspace, with that digest.
	SessionByDigest(digest []byte) (*Session, error)
	Sessions(q SessionQuery) ([]*Session, error)
	InsertSession(*Session) error
	// EndSession ends a session, and reports whether it had not ended before.
	EndSession(keyspace, id string, at time.Time) (bool, error)
	// TouchSession stores when and from which address a session was last used. The stored time
	// only increases.
	TouchSession(id string, at time.Time, ip string) error
	// InsertPortalLink stores a link.
	InsertPortalLink(*PortalLink) error
	// PortalLink returns the link with that digest in that keyspace. It returns ErrNotFound if there is no such link, or if the
	// link was used.
	PortalLink(keyspace string, digest []byte) (*PortalLink, error)
	// UsePortalLink marks the link with that digest in that keyspace as used, and returns the link as it was before. It returns
	// ErrNotFound if there is no such link, or if the link was used. Of concurrent calls for one link, one succeeds.
	UsePortalLink(keyspace string, digest []byte, at time.Time) (*PortalLink, error)
	// PruneSessions deletes the sessions and links that expired before a time.
	PruneSessions(before time.Time) error
}
