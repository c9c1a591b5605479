package management

import (
	"crypto/rand"
	"encoding/binary"
	"sync"
	"time"
)

// Ids are made as ULIDs are (github.com/ulid/spec): 48 bits of Unix milliseconds and
// 80 random bits, written as 26 characters of Crockford's base32 in lower case, after
// a prefix that says what they name. Sorted as text they are in the order they were made.
const (
	KeyIDPrefix    = "key_"
	SecretIDPrefix = "sec_"
	auditIDPrefix  = "evt_"
	TokenIDPrefix  = "tok_"

	idAlphabet = "0123456789abcdefghjkmnpqrstvwxyz"
	idLength   = 26
)

// idSource makes ids that strictly rise within a process, also within a millisecond
// and when the clock is set back. Its zero value is ready.
type idSource struct {
	mu   sync.Mutex
	ms   uint64
	high uint16 // the upper 16 of the 80 random bits
	low  uint64
}

func (s *idSource) next(prefix string, now time.Time) string {
	s.mu.Lock()
	ms := uint64(max(now.UnixMilli(), 0)) & (1<<48 - 1)
	if ms > s.ms {
		var r [10]byte
		rand.Read(r[:]) // never fails: crypto/rand ends the process instead
		// The top bit stays clear, so that counting up from here has room.
		s.ms, s.high, s.low = ms, binary.BigEndian.Uint16(r[:2])&0x7fff, binary.BigEndian.Uint64(r[2:])
	} else {
		// A random step keeps the next id from being guessed from this one.
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

	// 128 bits as 26 digits of 5: the first digit holds the top 3 bits.
	hi := ms<<16 | uint64(high)
	var out [idLength]byte
	for i := idLength - 1; i >= 0; i-- {
		out[i] = idAlphabet[low&31]
		low = low>>5 | hi<<59
		hi >>= 5
	}
	return prefix + string(out[:])
}

// HasIDForm reports whether s has the form of an id with that prefix. What has not need not
// be looked up.
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
