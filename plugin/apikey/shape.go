package apikey

import "strings"

// Shape is one entry of a Grammar.
type Shape struct {
	// Name of accepted shapes; empty for issued ones.
	Name        string
	Prefix      string
	Environment string // of issued shapes
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
	// shownPrefix and shownLast are what people know a key by.
	shownPrefix, shownLast = 12, 4
	// randomBits is the least a key must have, hiddenBits the least of them that may
	// neither be shown nor follow from what is shown.
	randomBits, hiddenBits = 128, 96
)

// show sets ShownPrefix and ShownLast so that of a key of MinLength hiddenBits stay
// hidden: of the characters after the prefix those at the end are given up first. The
// prefix itself is no secret. A shown character of a checksum counts as a shown random one:
// it depends on all random characters, and discloses as many bits of them.
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
