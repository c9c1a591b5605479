// Package sfv writes values of structured header fields (RFC 9651).
package sfv

// MaxInteger is the largest integer of RFC 9651, section 3.3.1.
const MaxInteger = 999_999_999_999_999

// Integer returns the non-negative integer of RFC 9651 that is closest to n.
func Integer(n int64) int64 { return min(max(n, 0), MaxInteger) }

// AppendString appends s as a string of RFC 9651, section 3.3.3. Characters that such a string
// cannot hold become underscores.
func AppendString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ' || c > '~':
			b = append(b, '_')
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}
