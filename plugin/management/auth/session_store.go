package auth

import "time"

// Session is a person's at the console, as stored.
type Session struct {
	ID       string
	Keyspace string
	// Digest is the SHA-256 of the secret that the browser holds.
	Digest []byte
	Kind   SessionKind
	// Tenant is the slug of the only one that exists for it; "" for all of the keyspace's.
	Tenant string
	// Token is the id of the management token that it was begun by, or that made its portal
	// link, and with which it ends; "" where there is none.
	Token string
	// Name is the person's.
	Name string
	// Scopes are what it may do. None are stored of SessionByToken, which has its token's.
	Scopes []string
	// ReturnURL leads back to where the person came from; "" where that is not known.
	ReturnURL string
	CreatedAt time.Time
	CreatedIP string
	ExpiresAt time.Time
	// LastUsedAt is right to about a minute.
	LastUsedAt time.Time
	LastUsedIP string
	// EndedAt is zero while nobody has ended it.
	EndedAt time.Time
}

// PortalLink lets a tenant's person in once, as stored.
type PortalLink struct {
	ID       string
	Keyspace string
	// Digest is the SHA-256 of the secret in the link.
	Digest []byte
	Tenant string
	// Token is the id of the management token that it was made by; "" where none was.
	Token     string
	Name      string
	Role      PortalRole
	ReturnURL string
	CreatedAt time.Time
	ExpiresAt time.Time
	// UsedAt is zero before it is used.
	UsedAt time.Time
}

// SessionQuery selects sessions of a keyspace, newest first, ended ones too.
type SessionQuery struct {
	Keyspace string
	Tenant   string // "" for all
	Before   string // id of the last one seen
	Limit    int
}

// SessionTx is the part of Tx for people's sessions at the console.
type SessionTx interface {
	Session(keyspace, id string) (*Session, error)
	// SessionByDigest returns the session, of any keyspace, with that digest.
	SessionByDigest(digest []byte) (*Session, error)
	Sessions(q SessionQuery) ([]*Session, error)
	InsertSession(*Session) error
	// EndSession ends a session, and says whether it had not ended before.
	EndSession(keyspace, id string, at time.Time) (bool, error)
	// TouchSession notes that a session was used. It only moves forward in time.
	TouchSession(id string, at time.Time, ip string) error
	// InsertPortalLink stores a link.
	InsertPortalLink(*PortalLink) error
	// PortalLink returns the link with that digest, of that keyspace. ErrNotFound where there is none, or it was used.
	PortalLink(keyspace string, digest []byte) (*PortalLink, error)
	// UsePortalLink marks the link with that digest, of that keyspace, as used and returns it as it was before.
	// ErrNotFound where there is none, or it was used: of two at once only one gets it.
	UsePortalLink(keyspace string, digest []byte, at time.Time) (*PortalLink, error)
	// PruneSessions deletes the sessions and links that expired before a time.
	PruneSessions(before time.Time) error
}
