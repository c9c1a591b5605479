package apikey

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// Algorithm names how a stored digest was made from the full key: "sha256", or
// "hmac-sha256:<pepper id>" where the pepper id is the first 8 hex characters of SHA-256("keygate
// pepper id" || pepper). Imported keys may have others: SHA512 and bcrypt.
type Algorithm string

// SHA256 is the algorithm of keys that were issued without a pepper.
const SHA256 Algorithm = "sha256"

// hmacSHA256 begins the algorithm of keys that were digested with a pepper. The pepper's id
// follows.
const hmacSHA256 = "hmac-sha256:"

// MinPepper is the least number of bytes a pepper may have.
const MinPepper = 16

// Candidate is one form in which the store may hold a presented key.
//
// Digest has one size for every algorithm, so that a store's index, a cache and a filter of all
// digests handle only one. An algorithm whose own result is longer (an imported SHA-512) is
// stored, and looked up, as SHA-256 of that result.
type Candidate struct {
	Algorithm Algorithm
	Digest    Digest
}

// Hasher digests keys under the configured peppers. Immutable, safe for concurrent use.
type Hasher struct {
	peppers       []pepper
	importPeppers []pepper // importPeppers are the peppers of other systems whose keys were imported.
}

// NewHasher returns a Hasher; the first pepper is the current one, further ones are
// previous peppers. With none, keys are digested by plain SHA-256. An empty pepper,
// one under 16 bytes, or one given twice, is an error, which never holds the pepper.
func NewHasher(peppers ...string) (*Hasher, error) {
	h := &Hasher{peppers: make([]pepper, 0, len(peppers))}
	for i, secret := range peppers {
		switch {
		case secret == "":
			return nil, fmt.Errorf("pepper %d is empty: set the variable it comes from, or take the pepper out", i+1)
		case len(secret) < MinPepper:
			return nil, fmt.Errorf("pepper %d has %d bytes; at least %d are needed, for instance from `openssl rand -hex 32`", i+1, len(secret), MinPepper)
		}
		p := newPepper(secret)
		for j := range h.peppers {
			if h.peppers[j].id == p.id {
				return nil, fmt.Errorf("pepper %d is the same as pepper %d", i+1, j+1)
			}
		}
		h.peppers = append(h.peppers, p)
	}
	return h, nil
}

// Primary returns the digest under which a newly issued key is stored, and which identifies a key
// in caches. It does not allocate for a key of up to maxKeyLength bytes; no Grammar accepts a
// longer one.
func (h *Hasher) Primary(key string) Digest {
	if len(h.peppers) == 0 {
		return plain(key)
	}
	return h.peppers[0].digest(key)
}

// PrimaryAlgorithm names Primary's algorithm.
func (h *Hasher) PrimaryAlgorithm() Algorithm {
	if len(h.peppers) == 0 {
		return SHA256
	}
	return h.peppers[0].algorithm
}

// Candidates appends to dst every form in which the store may hold key: the primary
// one first, then previous peppers, plain SHA-256, imported keys' peppers and SHA-512.
// It allocates only where dst has no room.
func (h *Hasher) Candidates(dst []Candidate, key string) []Candidate {
	for i := range h.peppers {
		p := &h.peppers[i]
		dst = append(dst, Candidate{Algorithm: p.algorithm, Digest: p.digest(key)})
	}
	dst = append(dst, Candidate{Algorithm: SHA256, Digest: plain(key)}) // Without peppers, plain SHA-256 is the primary form and is in the list already.
	for i := range h.importPeppers {
		p := &h.importPeppers[i]
		dst = append(dst, Candidate{Algorithm: p.algorithm, Digest: p.digest(key)})
	}
	return append(dst, Candidate{Algorithm: SHA512, Digest: sha512Digest(key)})
}

// Checks returns a check value for each pepper id, nil without peppers. The store keeps them to
// notice a wrong pepper at start. A check value is 64 hex characters of HMAC-SHA-256 over a text
// that is no key of any shape (it has spaces), so it equals no key's digest. The pepper cannot be
// computed from it.
func (h *Hasher) Checks() map[string]string {
	if len(h.peppers) == 0 {
		return nil
	}
	checks := make(map[string]string, len(h.peppers))
	for i := range h.peppers {
		d := h.peppers[i].digest("keygate pepper check")
		checks[h.peppers[i].id] = hex.EncodeToString(d[:])
	}
	return checks
}

// pepper is an HMAC key with its two padded forms of RFC 2104, which are hashed before the inner
// and before the outer message.
type pepper struct {
	id           string
	algorithm    Algorithm
	secret       string
	inner, outer [sha256.BlockSize]byte
}

func newPepper(secret string) pepper {
	p := pepper{id: PepperID(secret), secret: secret}
	p.algorithm = Algorithm(hmacSHA256 + p.id)
	if len(secret) > sha256.BlockSize {
		d := sha256.Sum256([]byte(secret))
		copy(p.inner[:], d[:])
	} else {
		copy(p.inner[:], secret)
	}
	p.outer = p.inner
	for i := range p.inner {
		p.inner[i] ^= 0x36
		p.outer[i] ^= 0x5c
	}
	return p
}

// plain returns SHA-256 of key. It copies the key to the stack because a conversion to []byte
// allocates.
func plain(key string) Digest {
	if len(key) > maxKeyLength {
		return sha256.Sum256([]byte(key))
	}
	var buf [maxKeyLength]byte
	return sha256.Sum256(buf[:copy(buf[:], key)])
}

// digest returns HMAC-SHA-256 of key. It does not use crypto/hmac, which allocates: it puts pad
// and message into a buffer on the stack and calls Sum256 twice.
func (p *pepper) digest(key string) Digest {
	if len(key) > maxKeyLength {
		return p.digestLong(key)
	}
	var buf [sha256.BlockSize + maxKeyLength]byte
	copy(buf[:], p.inner[:])
	n := sha256.BlockSize + copy(buf[sha256.BlockSize:], key)
	d := sha256.Sum256(buf[:n])
	copy(buf[:], p.outer[:])
	n = sha256.BlockSize + copy(buf[sha256.BlockSize:], d[:])
	return sha256.Sum256(buf[:n])
}

// digestLong computes the same as digest, for texts that are longer than any key. It allocates.
func (p *pepper) digestLong(key string) (d Digest) {
	mac := hmac.New(sha256.New, []byte(p.secret))
	mac.Write([]byte(key))
	mac.Sum(d[:0])
	return d
}
