package auth

import (
	"time"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/management"
)

// TokenQuery selects tokens of a keyspace, newest first, including revoked ones.
type TokenQuery struct {
	Keyspace string
	Tenant   string // Tenant selects the tokens of one tenant; "" selects the tokens of all.
	Before   string // Before is the id of the last token on the page before.
	Limit    int
}

// Tx reads and writes tokens, sessions and portal links, in a transaction of the store.
type Tx interface {
	TokenTx
	SessionTx
}

// TokenTx is the part of Tx for management tokens. Tokens are never deleted.
type TokenTx interface {
	// TokenByDigest returns the token, of any keyspace, with the first of the digests that any token has.
	TokenByDigest(digests []apikey.Candidate) (*management.Token, error)
	Tokens(q TokenQuery) ([]*management.Token, error)
	InsertToken(*management.Token) error
	// TouchToken stores when and from where a token was last used. The stored time only increases.
	TouchToken(id string, at time.Time, ip string) error
	// RehashToken replaces a token's digest by its primary form.
	RehashToken(id string, to apikey.Candidate) error
}
