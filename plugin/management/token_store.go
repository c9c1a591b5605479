package management

import (
	"time"

	"github.com/keygate-dev/keygate/plugin/apikey"
)

// Token is a management token as stored.
type Token struct {
	ID       string
	Keyspace string
	Name     string
	// Scopes as chosen, in the order of TokenScopes.
	Scopes []string
	// Tenant is the slug of the one tenant it sees; "" for all of the keyspace's.
	Tenant string
	// Digest and Algorithm as a key's secret has them.
	Digest           []byte
	Algorithm        apikey.Algorithm
	Prefix, LastFour string
	CreatedAt        time.Time
	CreatedBy        string
	// CreatedByToken is the id of the token that made it; "" where none did.
	CreatedByToken string
	// ExpiresAt, LastUsedAt and RevokedAt are zero for never.
	ExpiresAt  time.Time
	LastUsedAt time.Time
	LastUsedIP string
	RevokedAt  time.Time
}

// TokenQuery selects tokens of a keyspace, newest first, revoked ones too.
type TokenQuery struct {
	Keyspace string
	Tenant   string // "" for all
	Before   string // id of the last one seen
	Limit    int
}

// TokenTx is the part of Tx that is about management tokens. Tokens are never deleted.
type TokenTx interface {
	Token(keyspace, id string) (*Token, error)
	// LockToken is Token, and until the transaction ends no other reads it through LockToken.
	LockToken(keyspace, id string) (*Token, error)
	// TokenByDigest returns the token, of any keyspace, that has the first of digests that any has.
	TokenByDigest(digests []apikey.Candidate) (*Token, error)
	Tokens(q TokenQuery) ([]*Token, error)
	InsertToken(*Token) error
	// RevokeTokens revokes the token and all that it made, and what those made, and
	// returns those that were not revoked already, oldest first.
	RevokeTokens(keyspace, id string, at time.Time) ([]*Token, error)
	// TouchToken notes that a token was used. It only moves forward in time.
	TouchToken(id string, at time.Time, ip string) error
	// RehashToken replaces a token's digest by its primary form.
	RehashToken(id string, to apikey.Candidate) error
}
