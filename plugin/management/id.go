package management

import (
	"crypto/rand"
	"encoding/binary"
	"sync"
	"time"
)

// An id is a prefix that says what it names, and a ULID (github.com/ulid/spec) in lower case: 48
// bits of Unix milliseconds and 80 random bits, as 26 characters of Crockford's base32. Ids sort
// by the time of their creation.
const (
	KeyIDPrefix    = "key_"
	SecretIDPrefix = "sec_"
	auditIDPrefix  = "evt_"
	TokenIDPrefix  = "tok_"

	idAlphabet = "0123456789abcdefghjkmnpqrstvwxyz"
	idLength   = 26
)

// idSource makes ids that strictly increase within a process, even within a millisecond or when
// the clock is set back. The zero value is ready to use.
type idSource struct {
	mu   sync.Mutex
	ms   uint64
	high uint16 // high holds the upper 16 of the 80 random bits.
	low  uint64
}

func (s *idSource) next(prefix string, now time.Time) string {
	s.mu.Lock()
	ms := uint64(max(now.UnixMilli(), 0)) & (1<<48 - 1)
	if ms > s.ms {
		var r [10]byte
		rand.Read(r[:]) // rand.Read never returns an error: if it fails, the process ends.
		// The top bit of the random part stays 0, so that the ids of this millisecond can count up
		// from it.
		s.ms, s.high, s.low = ms, binary.BigEndian.Uint16(r[:2])&0x7fff, binary.BigEndian.Uint64(r[2:])
	} else {
		// The step to the next id is random, so that nobody can guess it from the id before.
		var r [4]byte
		rand.Read(r[:])
		step := uint64(binary.BigEndian.Uint32(r[:])) + 1
		if s.low += step; s.low < step {
			if s.high++; s.high == 0 {
				s.ms++
			}
		}
	}
	ms, high, low := s.ms, s.high, s.low
	s.mu.Unlock()

	// The text has 26 digits of 5 bits for 128 bits, so that the first digit holds only 3 bits.
	hi := ms<<16 | uint64(high)
	var out [idLength]byte
	for i := idLength - 1; i >= 0; i-- {
		out[i] = idAlphabet[low&31]
		low = low>>5 | hi<<59
		hi >>= 5
	}
	return prefix + string(out[:])
}

// HasIDForm reports whether s has the form of an id with that prefix. A text without that form
// needs no look-up.
func HasIDForm(s, prefix string) bool {
	if len(s) != len(prefix)+idLength || s[:len(prefix)] != prefix {
		return false
	}
	for _, c := range []byte(s[len(prefix):]) {
		switch {
		case c >= '0' && c <= '9':
		case c >= 'a' && c <= 'z' && c != 'i' && c != 'l' && c != 'o' && c != 'u':
		default:
			return false
		}
	}
	return true
}

// IsKeyID reports whether s has the form of a key's id.
func IsKeyID(s string) bool { return HasIDForm(s, KeyIDPrefix) }
