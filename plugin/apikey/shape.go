package apikey

import "strings"

// Shape is one form of the keys of a Grammar: prefix, length, characters and checksum.
type Shape struct {
	// Name is an accepted shape's name. It is empty for an issued shape.
	Name        string
	Prefix      string
	Environment string // empty for an accepted shape
	Issued      bool
	// ShownPrefix and ShownLast are how many characters of a key of this shape may be
	// shown at its start (prefix included) and at its end.
	ShownPrefix, ShownLast int
	// MinLength and MaxLength count the characters after the prefix, checksum included.
	MinLength, MaxLength int
	Charset              Charset
	Checksum             Checksum

	class class
}

// has reports whether key has the shape.
func (s *Shape) has(key string) bool {
	n := len(key) - len(s.Prefix)
	if n < s.MinLength || n > s.MaxLength || !strings.HasPrefix(key, s.Prefix) {
		return false
	}
	body := key[len(s.Prefix):]
	return s.class.within(body) && (s.Checksum != CRC32 || hasChecksum(body))
}

const (
	// shownPrefix and shownLast are how many characters at a key's start and end are shown, so
	// that people can recognise the key.
	shownPrefix, shownLast = 12, 4
	// randomBits is the least number of random bits in a key. hiddenBits is how many of them must
	// stay unknown to a person who sees the shown characters.
	randomBits, hiddenBits = 128, 96
)

// show sets ShownPrefix and ShownLast so that hiddenBits of a key of MinLength stay hidden. Where
// not all may be shown, characters at the key's end are hidden first. The prefix itself is no
// secret. A shown character of a checksum counts as a shown random one: it depends on all random
// characters, and discloses as many bits of them.
func (s *Shape) show() {
	random := s.MinLength
	if s.Checksum == CRC32 {
		random -= checksumLength
	}
	spare := max(0, random-s.Charset.chars(hiddenBits))
	first := min(max(0, shownPrefix-len(s.Prefix)), spare)
	s.ShownPrefix = min(shownPrefix, len(s.Prefix)+first)
	s.ShownLast = min(shownLast, spare-first)
}
