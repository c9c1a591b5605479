package apikey

import "math"

// base62 is GitHub's order of digits, for random characters and checksums alike.
const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// class is a set of Charsets, one bit each.
type class uint8

const (
	classBase62 class = 1 << iota
	classBase58
	classHex
	classAny
)

// classes holds, for each byte, the charsets it belongs to.
var classes = func() (t [256]class) {
	for c := 0x21; c <= 0x7e; c++ {
		switch b := byte(c); {
		case b == ',' || b == ';' || b == '"' || b == '\'':
			continue
		default:
			t[b] |= classAny
		}
	}
	for i := range len(base62) {
		b := base62[i]
		t[b] |= classBase62
		if b != '0' && b != 'O' && b != 'I' && b != 'l' {
			t[b] |= classBase58
		}
		if b <= '9' || 'A' <= b && b <= 'F' || 'a' <= b && b <= 'f' {
			t[b] |= classHex
		}
	}
	return t
}()

// class returns the charset's bit; 0 for an unknown charset.
func (c Charset) class() class {
	switch c {
	case Base62:
		return classBase62
	case Base58:
		return classBase58
	case Hex:
		return classHex
	case AnyChar:
		return classAny
	}
	return 0
}

// bits returns how many random bits a character of the charset counts for. Keys of AnyChar may
// have little randomness: a UUID, the commonest such key, has 122 bits in 36 characters. So each
// of their characters counts for 3.
func (c Charset) bits() float64 {
	switch c {
	case Base58:
		return math.Log2(58)
	case Hex:
		return 4
	case AnyChar:
		return 3
	}
	return math.Log2(62)
}

// chars returns the least number of characters of the charset that together hold bits random bits.
func (c Charset) chars(bits float64) int { return int(math.Ceil(bits / c.bits())) }

// within reports whether every byte of s belongs to the class.
func (c class) within(s string) bool {
	for i := range len(s) {
		if classes[s[i]]&c == 0 {
			return false
		}
	}
	return true
}
