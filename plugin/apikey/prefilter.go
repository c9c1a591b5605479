package apikey

import "strings"

// Nearly every text that Clean gets holds no key. So mayHoldKey first searches the text for one rare character of each
// prefix. It uses strings.IndexByte, which compares many bytes at a time. Only a text that may hold a key is then read
// character by character.

// byRarity lists the characters that a prefix may have, the rarest in requests first.
const byRarity = "_~^|`$!#*@&QZJXKVYWqzjxBGFUkvywMPHLDRNCISTOAEbgfumphldrncistoae9876543210()[]{}<>+=:?.-/"

// anchor is a rare character. A search for it finds the prefixes that hold it.
type anchor struct {
	char     byte
	prefixes []anchored
}

// anchored is a prefix and the index of the anchor's first occurrence in it.
type anchored struct {
	prefix string
	at     int
}

// newAnchors returns one anchor for the rarest character of each prefix. Prefixes with the same
// rarest character share an anchor.
func newAnchors(prefixes []string) []anchor {
	var out []anchor
next:
	for _, p := range prefixes {
		best, at := len(byRarity), 0
		for i := range len(p) {
			if rank := strings.IndexByte(byRarity, p[i]); rank >= 0 && rank < best {
				best, at = rank, i
			}
		}
		for i := range out {
			if out[i].char == p[at] {
				out[i].prefixes = append(out[i].prefixes, anchored{p, at})
				continue next
			}
		}
		out = append(out, anchor{p[at], []anchored{{p, at}}})
	}
	return out
}

// maxAnchors bounds how many occurrences of an anchor's character are compared with the prefixes. A text with more
// occurrences counts as a text that may hold a key.
const maxAnchors = 32

// mayHoldKey reports whether s may hold a key: a prefix as it is, or characters that may begin an
// escape. It does not allocate.
func (c *Cleaner) mayHoldKey(s string) bool {
	if len(s) < c.shortest {
		return false
	}
	for i := range c.anchors {
		if c.anchors[i].within(s) {
			return true
		}
	}
	return strings.IndexByte(s, '%') >= 0 || strings.IndexByte(s, '\\') >= 0
}

// within reports whether s holds one of the anchor's prefixes, or may hold one.
func (a *anchor) within(s string) bool {
	from := 0
	for range maxAnchors {
		i := strings.IndexByte(s[from:], a.char)
		if i < 0 {
			return false
		}
		i += from
		for k := range a.prefixes {
			if p := &a.prefixes[k]; i >= p.at && strings.HasPrefix(s[i-p.at:], p.prefix) {
				return true
			}
		}
		from = i + 1
	}
	return true
}
