package apikey

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Keys that were issued elsewhere may be imported as hashes. Unsalted hashes are looked up like our
// own. bcrypt salts each key, so a presented key must be compared with stored hashes: with those of
// keys that have the same first characters, and so the same Hint.

// SHA512 is the algorithm of keys that were imported as their SHA-512; their Digest is
// SHA-256 of it.
const SHA512 Algorithm = "sha512"

// bcryptAlgorithm begins the algorithm of keys that were imported as bcrypt. The hash follows.
const bcryptAlgorithm = "bcrypt:"

const (
	// MaxBcryptKey is how many bytes of a key bcrypt hashes; it ignores all others. A longer key
	// is never compared, since any key with the same beginning would match.
	MaxBcryptKey = 72
	// MaxBcryptCost bounds the time of one comparison to about a second.
	MaxBcryptCost = 14
	minBcryptCost = 4
)

// WithImportPeppers returns a Hasher that also finds keys which another system stored as HMAC-SHA-256
// under its own peppers. These peppers are never used for new keys. An empty pepper, one given
// twice, and one that is a pepper of h is an error. Errors never hold a pepper.
func (h *Hasher) WithImportPeppers(peppers ...string) (*Hasher, error) {
	out := &Hasher{peppers: h.peppers}
	for i, secret := range peppers {
		if secret == "" {
			return nil, fmt.Errorf("import pepper %d is empty: set the variable it comes from, or take the pepper out", i+1)
		}
		p := newPepper(secret)
		if out.pepper(p.id) != nil {
			return nil, fmt.Errorf("import pepper %d is given twice, or is a pepper already", i+1)
		}
		out.importPeppers = append(out.importPeppers, p)
	}
	return out, nil
}

// pepper returns the pepper with that id, nil where there is none.
func (h *Hasher) pepper(id string) *pepper {
	for _, list := range [][]pepper{h.peppers, h.importPeppers} {
		for i := range list {
			if list[i].id == id {
				return &list[i]
			}
		}
	}
	return nil
}

// PepperID returns the id of a pepper, by which imports name it. The pepper cannot be computed from
// it.
func PepperID(secret string) string {
	id := sha256.Sum256([]byte("keygate pepper id" + secret))
	return hex.EncodeToString(id[:4])
}

// Imported returns the form in which a key is stored that is imported as a hash. algorithm is
// sha256, sha512 or hmac-sha256; hash is in hexadecimal or base64. pepperID names the pepper of an
// HMAC. It may be empty where there is one import pepper, or none and one pepper. The errors never
// hold the hash.
func (h *Hasher) Imported(algorithm, hash, pepperID string) (Candidate, error) {
	if pepperID != "" && algorithm != "hmac-sha256" {
		return Candidate{}, fmt.Errorf("a pepper belongs to hmac-sha256, not to %s", algorithm)
	}
	switch algorithm {
	case "sha256":
		sum, err := decodeHash(hash, sha256.Size)
		return Candidate{SHA256, Digest(sum)}, err
	case "sha512":
		sum, err := decodeHash(hash, sha512.Size)
		return Candidate{SHA512, sha256.Sum256(sum)}, err
	case "hmac-sha256":
		p, err := h.importPepper(pepperID)
		if err != nil {
			return Candidate{}, err
		}
		sum, err := decodeHash(hash, sha256.Size)
		return Candidate{p.algorithm, Digest(sum)}, err
	}
	return Candidate{}, errors.New("the algorithm is sha256, sha512, hmac-sha256 or bcrypt")
}

func (h *Hasher) importPepper(id string) (*pepper, error) {
	switch {
	case id != "":
		if p := h.pepper(id); p != nil {
			return p, nil
		}
		return nil, errors.New("the pepper with this id is not configured: the gateway needs it to check the key, as a pepper or an import_pepper")
	case len(h.importPeppers) == 1:
		return &h.importPeppers[0], nil
	case len(h.importPeppers) == 0 && len(h.peppers) == 1:
		return &h.peppers[0], nil
	case len(h.importPeppers)+len(h.peppers) == 0:
		return nil, errors.New("no pepper is configured: the gateway needs the one that the hash was made with, as an import_pepper")
	}
	return nil, errors.New("several peppers are configured: name the one that the hash was made with by its id")
}

// decodeHash decodes a hash of size bytes. With an error it returns size zero bytes, so that the
// caller can convert the result to an array before it checks the error.
func decodeHash(text string, size int) ([]byte, error) {
	if len(text) == hex.EncodedLen(size) {
		if b, err := hex.DecodeString(text); err == nil {
			return b, nil
		}
	}
	// Base64 may be in the standard or the URL alphabet, with padding or without.
	plain := strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(text, "="))
	if len(text) <= base64.StdEncoding.EncodedLen(size) {
		if b, err := base64.RawStdEncoding.DecodeString(plain); err == nil && len(b) == size {
			return b, nil
		}
	}
	return make([]byte, size), fmt.Errorf("it is not %d bytes in hexadecimal or base64", size)
}

// sha512Digest returns the Digest of a key whose SHA-512 was imported.
func sha512Digest(key string) Digest {
	if len(key) > maxKeyLength {
		sum := sha512.Sum512([]byte(key))
		return sha256.Sum256(sum[:])
	}
	var buf [maxKeyLength]byte // on the stack, as in plain
	sum := sha512.Sum512(buf[:copy(buf[:], key)])
	return sha256.Sum256(sum[:])
}

// Hint is a hash of the first characters of a key. The Digest of a stored bcrypt hash begins with
// its key's Hint, so that indexes, caches and filters of digests find it too.
type Hint [16]byte

// hintMin and hintMax are the numbers of characters after the prefix that a Hint covers. A key of which enough characters
// are known has the longer Hint, because fewer other keys share it.
const hintMin, hintMax = 4, 8

func hintOf(beginning string) (h Hint) {
	var buf [len(hintForm) + maxPrefix + hintMax]byte
	n := copy(buf[:], hintForm)
	n += copy(buf[n:], beginning)
	d := sha256.Sum256(buf[:n])
	copy(h[:], d[:])
	return h
}

const hintForm = "keygate lead\x00"

// Hints appends to dst every Hint that a stored bcrypt hash of key may have. It allocates only
// where dst has no room.
func (g *Grammar) Hints(dst []Hint, key string) []Hint {
	if len(key) > MaxBcryptKey {
		return dst
	}
	last := -1
	for i := range g.shapes {
		p := g.shapes[i].Prefix
		if len(p) == last || !strings.HasPrefix(key, p) {
			continue // Two prefixes of the same length that both begin the key are the same prefix.
		}
		last = len(p)
		for _, n := range [...]int{len(p) + hintMax, len(p) + hintMin} {
			if n <= len(key) {
				dst = append(dst, hintOf(key[:n]))
			}
		}
	}
	return dst
}

// Bcrypt returns the stored form of a key that is imported as a bcrypt hash. prefix is the known
// beginning of the key. It must hold at least four characters after the prefix of the key's shape:
// with fewer, too many keys would have the same Hint. Bcrypt returns an error for a shorter
// prefix, for a text that is no bcrypt hash, and for a hash that takes too long to compare.
func (g *Grammar) Bcrypt(hash, prefix string) (Candidate, Hint, error) {
	if err := checkBcrypt(hash); err != nil {
		return Candidate{}, Hint{}, err
	}
	longest := -1
	for i := range g.shapes {
		s := &g.shapes[i]
		if len(s.Prefix)+s.MinLength <= MaxBcryptKey && strings.HasPrefix(prefix, s.Prefix) {
			longest = max(longest, len(s.Prefix))
		}
	}
	n := longest + hintMax
	if len(prefix) < n {
		n = longest + hintMin
	}
	if longest < 0 || len(prefix) < n {
		return Candidate{}, Hint{}, fmt.Errorf("prefix must hold the key's prefix and at least %d of the random characters after it, by which a bcrypt hash is found", hintMin)
	}
	hint := hintOf(prefix[:n])
	sum := sha256.Sum256([]byte(hash))
	c := Candidate{Algorithm: Algorithm(bcryptAlgorithm + hash)}
	copy(c.Digest[copy(c.Digest[:], hint[:]):], sum[:])
	return c, hint, nil
}

// checkBcrypt returns an error where hash is no usable bcrypt hash. A usable one begins like
// $2b$10$, and 53 characters follow.
func checkBcrypt(hash string) error {
	const alphabet = base62 + "./"
	if len(hash) != 60 || hash[3] != '$' || hash[6] != '$' || !consistsOf(hash[7:], alphabet) {
		return errors.New("it is no bcrypt hash, which has 60 characters and begins like $2b$10$")
	}
	switch hash[:3] {
	case "$2a", "$2b", "$2y":
	default:
		return errors.New("it is no bcrypt hash of version 2a, 2b or 2y")
	}
	cost, err := strconv.ParseUint(hash[4:6], 10, 8)
	if err != nil || cost < minBcryptCost {
		return errors.New("it is no bcrypt hash: its cost is no number from 04 on")
	}
	if cost > MaxBcryptCost {
		return fmt.Errorf("its cost of %d would make each comparison too slow; %d is the most", cost, MaxBcryptCost)
	}
	return nil
}

// Bcrypt returns the hash of a key that was imported as bcrypt; false for others.
func (a Algorithm) Bcrypt() (hash string, ok bool) {
	return strings.CutPrefix(string(a), bcryptAlgorithm)
}

// Name returns the algorithm without the pepper's id or the bcrypt hash that follows it.
func (a Algorithm) Name() string {
	name, _, _ := strings.Cut(string(a), ":")
	return name
}

// Mark identifies an imported key after its imported form was replaced by the primary form. With the mark, a second import
// of the same key does nothing.
type Mark [16]byte

// Marks appends to dst the marks that an import of this digest may have left, the current one
// first. A mark made with a pepper does not confirm a guessed key without that pepper.
func (h *Hasher) Marks(dst []Mark, d Digest) []Mark {
	text := "keygate mark " + hex.EncodeToString(d[:])
	for i := range h.peppers {
		full := h.peppers[i].digest(text)
		dst = append(dst, Mark(full[:16]))
	}
	full := plain(text)
	return append(dst, Mark(full[:16]))
}

// Fit cuts the known beginning and end of an imported key to the parts that its shapes may show;
// either may be empty. It returns an error where no shape has keys with this beginning. The error
// names neither part.
func (g *Grammar) Fit(prefix, lastFour string) (shownFirst, shownLast string, err error) {
	first, last := -1, -1
	for i := range g.shapes {
		s := &g.shapes[i]
		if !s.begins(prefix) || !s.class.within(lastFour) {
			continue
		}
		if first < 0 {
			first, last = s.ShownPrefix, s.ShownLast
		}
		first, last = min(first, s.ShownPrefix), min(last, s.ShownLast)
	}
	if first < 0 {
		return "", "", errors.New("no prefix and no accept of the configuration has keys that begin so")
	}
	return prefix[:min(first, len(prefix))], lastFour[max(0, len(lastFour)-last):], nil
}

// begins reports whether a key of the shape may have this beginning.
func (s *Shape) begins(beginning string) bool {
	if rest, ok := strings.CutPrefix(beginning, s.Prefix); ok {
		return len(rest) <= s.MaxLength && s.class.within(rest)
	}
	return strings.HasPrefix(s.Prefix, beginning)
}
