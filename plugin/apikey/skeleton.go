package apikey

import (
	"net/http"
	"net/url"
)

// Algorithm names how a stored digest was made from the full key: "sha256", or
// "hmac-sha256:<pepper id>" where the pepper id is the first 8 hex characters of
// SHA-256("keygate pepper id" || pepper). Imports add others.
type Algorithm string

const SHA256 Algorithm = "sha256"

// Candidate is one form in which a presented key may rest in the store.
type Candidate struct {
	Algorithm Algorithm
	Digest    Digest
}

// Hasher digests keys under the configured peppers. Immutable, safe for concurrent use.
type Hasher struct{}

// NewHasher returns a Hasher; the first pepper is the current one, further ones are
// previous peppers. With none, keys are digested by plain SHA-256. An empty pepper, one under 16 bytes, or one
// given twice, is an error.
func NewHasher(peppers ...string) (*Hasher, error) { panic("x") }

// Primary returns the digest under which a key issued now would be stored, and by
// which caches know a key. It does not allocate.
func (h *Hasher) Primary(key string) Digest { panic("x") }

// PrimaryAlgorithm names Primary's algorithm.
func (h *Hasher) PrimaryAlgorithm() Algorithm { panic("x") }

// Candidates appends to dst every form in which the store may hold key: the primary
// one first, then previous peppers, then plain SHA-256.
func (h *Hasher) Candidates(dst []Candidate, key string) []Candidate { panic("x") }

// Checks returns a check value per pepper id, from which the pepper cannot be told:
// what the store keeps to notice a wrong pepper at start.
func (h *Hasher) Checks() map[string]string { panic("x") }

// Grammar is the shapes of one keyspace: what it issues and what it accepts.
// Immutable, safe for concurrent use.
type Grammar struct{}

// Shape is one entry of a Grammar.
type Shape struct {
	Prefix      string
	Environment string // of issued shapes
	Issued      bool
	// ShownPrefix and ShownLast are how many characters of a key of this shape may be
	// shown at its start (prefix included) and end.
	ShownPrefix, ShownLast int
}

// NewGrammar checks and compiles. It refuses formats with less than 128 random bits or
// less than 96 hidden ones, prefixes that are empty, doubled, too long, not of
// A-Za-z0-9_- or that begin one another ambiguously, and names the offender.
func NewGrammar(prefixes []Prefix, format Format, accept []Accept) (*Grammar, error) { panic("x") }

// Match returns the shape key has, checksum included; nil when it has none. It does
// not allocate and reads no more of an overlong value than its length.
func (g *Grammar) Match(key string) *Shape { panic("x") }

// Prefixed says whether s begins with one of the grammar's prefixes (issued or accepted, non-empty).
func (g *Grammar) Prefixed(s string) bool { panic("x") }

// Generate returns a new full key of the environment from a cryptographic source.
func (g *Grammar) Generate(environment string) (string, error) { panic("x") }

// Environments returns the environments in the order written, the first being the default.
func (g *Grammar) Environments() []string { panic("x") }

// Shown returns what of a full key of this grammar may be shown: its first twelve
// characters, and the last four before any checksum; less for imported shapes.
func (g *Grammar) Shown(key string) (prefix, lastFour string) { panic("x") }

// Clean returns s with everything in it that has a prefix and the shape of this
// grammar's keys (checksum right or not) written as its shown prefix and "…", also
// where it stands percent-encoded. It returns s itself, unallocated, when there is nothing to clean.
func (g *Grammar) Clean(s string) string { panic("x") }

// Kind of a Place.
type PlaceKind string

const (
	InAuthorization PlaceKind = "authorization"
	InHeader        PlaceKind = "header"
	InQuery         PlaceKind = "query"
	InCookie        PlaceKind = "cookie"
)

// Place is one place of a request where a credential may stand.
type Place struct {
	Kind PlaceKind `json:"in"`
	// Name of the header, query parameter or cookie; for InAuthorization the scheme, "Bearer".
	Name string `json:"name"`
}

// Places finds and empties credentials. Immutable, safe for concurrent use.
type Places struct{}

// NewPlaces compiles; with no place given it is Authorization: Bearer and X-API-Key.
func NewPlaces(places ...Place) (*Places, error) { panic("x") }

// Find returns the credential of a request. Errors: ErrMissing, ErrMalformed,
// ErrAmbiguous, and nothing else. The result shares memory with the request; nothing is allocated
// when credentials stand in headers.
// prefixedOnly: only values with one of the grammar's prefixes are credentials
// (public and optional routes).
func (p *Places) Find(h http.Header, u *url.URL, g *Grammar, prefixedOnly bool) (string, error) {
	panic("x")
}

// Empty removes the credentials from every place, so that an upstream never sees one:
// same meaning of the arguments as Find. What is no credential by Find's rules (a
// user's own Bearer token beside a key, an app's cookie) stays.
func (p *Places) Empty(h http.Header, u *url.URL, g *Grammar, prefixedOnly bool) { panic("x") }
