package apikey

// escapeDepth is how many layers of percent-encoding are decoded. A URL in a query parameter of a
// Referer has two.
const escapeDepth = 3

// read returns the character at i of s, decoded, and the index after it. The character may be the
// byte itself, %xx, %25xx, %25%xx%xx and so on to escapeDepth layers, or \u00xx as JSON writes it.
// An incomplete escape is read byte by byte. i must be less than len(s).
func read(s string, i int) (c byte, next int) {
	if c = s[i]; c != '%' && c != '\\' {
		return c, i + 1
	}
	return readEscape(s, i, escapeDepth)
}

// readEscape is read with at most depth layers. It looks at some twenty bytes at most, so a
// hostile text costs no more time.
func readEscape(s string, i, depth int) (c byte, next int) {
	c, next = s[i], i+1
	if c == '\\' {
		c, next = readJSON(s, i)
	}
	// The loop continues with a percent sign, because a percent sign of one layer may begin an escape of the next layer.
	for layer := 0; layer < depth && c == '%'; layer++ {
		high, second := readDigit(s, next, layer)
		if high == noDigit {
			if !escapes(s, next) {
				break // If this layer has no digit, the next layers have none either, so the loop ends.
			}
			continue
		}
		low, end := readDigit(s, second, layer)
		if low == noDigit {
			if !escapes(s, second) {
				break
			}
			continue
		}
		c, next = high<<4|low, end
	}
	return c, next
}

// noDigit is the value in digits of a byte that is no hexadecimal digit.
const noDigit = 0xff

// readDigit returns the value of the hexadecimal digit at i, decoded with at most depth layers, and the index after the
// digit. It returns noDigit if there is no hexadecimal digit at i.
func readDigit(s string, i, depth int) (digit byte, next int) {
	if i >= len(s) {
		return noDigit, i
	}
	if digit = digits[s[i]]; digit != noDigit {
		return digit, i + 1
	}
	if s[i] == '\\' || s[i] == '%' && mayDigit(s, i, depth) {
		c, next := readEscape(s, i, depth)
		return digits[c], next
	}
	return noDigit, i
}

// mayDigit reports whether the percent sign at i may begin an escape that decodes, with at most
// depth layers, to a hexadecimal digit. It looks at the next bytes only, which rule out nearly all
// other escapes.
func mayDigit(s string, i, depth int) bool {
	if depth == 0 || i+2 >= len(s) {
		return false
	}
	switch s[i+1] {
	case '\\':
		return spells(s, i+1)
	case '3', '4', '6': // the first hexadecimal digit in the codes of 0 to 9, A to F and a to f
		if low := digits[s[i+2]]; low != noDigit {
			return digits[digits[s[i+1]]<<4|low] != noDigit
		}
		return spells(s, i+2) || s[i+2] == '%' && mayDigit(s, i+2, depth-1)
	case '2': // The text %2 may be the beginning of %25, a percent sign that begins an escape of the next layer.
		if depth == 1 {
			return false
		}
		if s[i+2] != '5' {
			return spells(s, i+2) || s[i+2] == '%' && depth > 2 // an escape of the 5 in %25 needs a third layer
		}
		if i+3 < len(s) && s[i+3] == '%' {
			return mayDigit(s, i+3, depth-1)
		}
		return true
	case '%': // The first digit of the escape is an escape itself.
		return mayDigit(s, i+1, depth-1)
	}
	return false
}

// escapes reports whether an escape may begin at i.
func escapes(s string, i int) bool { return i < len(s) && (s[i] == '%' || spells(s, i)) }

// spells reports whether a \u00xx begins at i that encodes a character other than a backslash.
func spells(s string, i int) bool {
	if s[i] != '\\' {
		return false
	}
	c, _ := readJSON(s, i)
	return c != '\\'
}

// readJSON returns the character that a \u00xx at i encodes, or the byte at i, and the index after
// it.
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
	d := digits[c]
	return d, d != noDigit
}

// digits maps each hexadecimal digit to its value, and every other byte to noDigit.
var digits = func() (t [256]byte) {
	for i := range t {
		t[i] = noDigit
	}
	for i := range byte(10) {
		t['0'+i] = i
	}
	for i := range byte(6) {
		t['a'+i], t['A'+i] = 10+i, 10+i
	}
	return t
}()
