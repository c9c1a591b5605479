// Package apikey makes API keys, recognises their shape, finds them in requests and texts, and
// digests them for storage.
//
// A key is a prefix, which names its environment, then random base62 characters, then by default
// six base62 characters of checksum, a CRC-32 as in GitHub's tokens. The package knows nothing of
// tenants, plans or storage; it holds no state and everything in it may be used from many
// goroutines at once.
package apikey

import "errors"

// Digest replaces a full key wherever one is stored: SHA-256 of the key, or HMAC-SHA-256 under a
// pepper. The key cannot be computed from it.
type Digest [32]byte

// ErrMalformed is returned for a credential whose shape this keyspace neither issues nor accepts.
// It needs no look-up.
var ErrMalformed = errors.New("malformed key")

// ErrMissing is returned where no place of the request holds a credential.
var ErrMissing = errors.New("no key sent")

// ErrAmbiguous is returned where two places of the request hold different credentials.
var ErrAmbiguous = errors.New("more than one key sent")

// Prefix is a key prefix such as "sk_live_" and its environment.
type Prefix struct {
	Value       string `json:"value"`
	Environment string `json:"environment"`
}

// Checksum names how the last characters of a key are derived from those before.
type Checksum string

const (
	// CRC32 puts the CRC-32/IEEE of the random characters, base62 and zero-padded to six, at the
	// end of the key. With it, scanners and the gateway recognise mistyped keys without a look-up.
	// Anyone can compute it, so a right checksum proves nothing.
	CRC32 Checksum = "crc32"
	// NoChecksum makes every character after the prefix random.
	NoChecksum Checksum = "none"
)

// Format is the shape of the keys a keyspace issues.
type Format struct {
	// Length counts the characters after the prefix, checksum included. Default: 32;
	// at most 255.
	Length int `json:"length,omitempty"`
	// Checksum is the kind of checksum at the end of a key. Default: crc32.
	Checksum Checksum `json:"checksum,omitempty"`
}

// Charset names the characters an accepted key may have after its prefix.
type Charset string

const (
	Base62 Charset = "base62"
	// Base58 is Bitcoin's: base62 without 0, O, I and l.
	Base58 Charset = "base58"
	// Hex is the hexadecimal digits, in upper and lower case.
	Hex Charset = "hex"
	// AnyChar allows every visible ASCII character except comma, semicolon and both kinds of quotes, " and '.
	AnyChar Charset = "any"
)

// Accept is a further shape, for keys that were issued elsewhere and imported. Such keys are
// checked, never issued.
type Accept struct {
	// Name distinguishes the shapes in messages: 1 to 64 characters of A-Za-z0-9_.-
	Name string `json:"name"`
	// Prefix may be empty; then any value of the right length and characters has the
	// shape, but nothing can recognise such a key in a log line (see Grammar.Clean).
	Prefix string `json:"prefix,omitempty"`
	// MinLength and MaxLength count the characters after the prefix: 8 to 512.
	MinLength int `json:"min_length"`
	MaxLength int `json:"max_length"`
	// Charset of the characters after the prefix. Default: base62.
	Charset Charset `json:"charset,omitempty"`
}
