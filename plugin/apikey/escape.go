package apikey

// escapeDepth is how many layers of percent-encoding are seen through: a URL in a
// query parameter in a Referer has two.
const escapeDepth = 3

// read returns the character that s spells at i, and where the next one begins: the
// byte itself, %xx, %25xx, %25%xx%xx and so on to escapeDepth layers, or \u00xx as JSON
// writes it. What is no whole escape stands for itself. It needs i < len(s).
func read(s string, i int) (c byte, next int) {
	if c = s[i]; c != '%' && c != '\\' {
		return c, i + 1
	}
	// Nearly every escape is of one layer.
	if c == '%' && len(s)-i >= 3 {
		h, ok := unhex(s[i+1])
		l, ok2 := unhex(s[i+2])
		if c = h<<4 | l; ok && ok2 && c != '%' {
			return c, i + 3
		}
	}
	return readLayer(s, i, escapeDepth)
}

func readLayer(s string, i, depth int) (byte, int) {
	switch c := s[i]; {
	case c != '%' && c != '\\':
		return c, i + 1
	case depth == 0:
		return readJSON(s, i)
	}
	c, next := readLayer(s, i, depth-1)
	if c != '%' || next >= len(s) {
		return c, next
	}
	high, i := readLayer(s, next, depth-1)
	if i >= len(s) {
		return c, next
	}
	low, i := readLayer(s, i, depth-1)
	h, ok := unhex(high)
	l, ok2 := unhex(low)
	if !ok || !ok2 {
		return c, next
	}
	return h<<4 | l, i
}

// readJSON reads \u00xx; anything else is the byte itself.
func readJSON(s string, i int) (byte, int) {
	if s[i] == '\\' && len(s)-i >= 6 && s[i+1:i+4] == "u00" {
		h, ok := unhex(s[i+4])
		l, ok2 := unhex(s[i+5])
		if ok && ok2 {
			return h<<4 | l, i + 6
		}
	}
	return s[i], i + 1
}

func unhex(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}
