package apikey

import (
	"errors"
	"fmt"
	"strings"
)

const (
	// DefaultLength is used where Format.Length is 0.
	DefaultLength = 32

	minPrefix, maxPrefix = 2, 32
	maxLength            = 255 // characters after an issued prefix
	minAccepted          = 8   // characters after an accepted prefix
	maxAccepted          = 512
	maxKeyLength         = maxPrefix + maxAccepted
	maxEnvironment       = 32
	maxName              = 64
)

// defaultPrefixes are the prefixes of a keyspace whose configuration names none.
var defaultPrefixes = []Prefix{{"kg_live_", "live"}, {"kg_test_", "test"}}

// ErrEnvironment is returned for an environment for which a grammar issues no keys.
var ErrEnvironment = errors.New("unknown environment")

// Grammar holds the shapes of one keyspace's keys, issued and accepted. Immutable, safe for
// concurrent use.
type Grammar struct {
	shapes       []Shape // The issued shapes come first and the accepted shapes follow, each in the order of the configuration.
	environments []string
	prefixes     []string // prefixes holds each prefix once, without the empty prefix.
	longest      int      // longest is the length of the longest key of any shape, in bytes.
	cleaner      *Cleaner
}

// NewGrammar checks and compiles the shapes of a keyspace. The default prefixes are kg_live_ and
// kg_test_; the default length and checksum are Format's.
//
// It returns an error, which names the wrong value, for a format with fewer than 128 random or 96
// hidden bits. A prefix is an error if it is empty, given twice, under 2 or over 32 characters, or
// not of A-Za-z0-9_-, or if it begins another one ambiguously: the rest of the longer could be
// random characters of the shorter.
//
// An accepted shape may have an issued prefix, and a prefix of any visible characters but %, \ and
// those that no key may have. It may have any entropy: with little, fewer characters of a key are
// shown.
func NewGrammar(prefixes []Prefix, format Format, accept []Accept) (*Grammar, error) {
	if len(prefixes) == 0 {
		prefixes = defaultPrefixes
	}
	if format.Length == 0 {
		format.Length = DefaultLength
	}
	if format.Checksum == "" {
		format.Checksum = CRC32
	}
	if err := checkFormat(format); err != nil {
		return nil, err
	}
	g := &Grammar{shapes: make([]Shape, 0, len(prefixes)+len(accept))}
	for i, p := range prefixes {
		if err := checkPrefix(p, prefixes[:i]); err != nil {
			return nil, err
		}
		s := Shape{
			Prefix: p.Value, Environment: p.Environment, Issued: true,
			MinLength: format.Length, MaxLength: format.Length,
			Charset: Base62, Checksum: format.Checksum,
		}
		if err := g.add(s); err != nil {
			return nil, err
		}
		g.addEnvironment(p.Environment)
	}
	for i, a := range accept {
		if a.Charset == "" {
			a.Charset = Base62
		}
		if err := checkAccept(a, accept[:i]); err != nil {
			return nil, err
		}
		s := Shape{
			Name: a.Name, Prefix: a.Prefix,
			MinLength: a.MinLength, MaxLength: a.MaxLength,
			Charset: a.Charset, Checksum: NoChecksum,
		}
		if err := g.add(s); err != nil {
			return nil, err
		}
	}
	g.cleaner = NewCleaner(g)
	return g, nil
}

// add completes the shape s and appends it to the grammar. It returns an error for an issued shape whose keys would have fewer
// than hiddenBits hidden bits.
func (g *Grammar) add(s Shape) error {
	s.class = s.Charset.class()
	s.show()
	if s.Issued && (s.ShownPrefix < shownPrefix || s.ShownLast < shownLast) {
		shown := max(0, shownPrefix-len(s.Prefix)) + shownLast
		need := shown + Base62.chars(hiddenBits)
		if s.Checksum == CRC32 {
			need += checksumLength
		}
		return fmt.Errorf("prefix %q with length %d and checksum %s: the first %d and the last %d characters of a key are shown, and fewer than %d bits would stay hidden; set format length to at least %d",
			s.Prefix, s.MinLength, s.Checksum, shownPrefix, shownLast, hiddenBits, need)
	}
	g.shapes = append(g.shapes, s)
	g.longest = max(g.longest, len(s.Prefix)+s.MaxLength)
	if s.Prefix != "" && !g.hasPrefix(s.Prefix) {
		g.prefixes = append(g.prefixes, s.Prefix)
	}
	return nil
}

func (g *Grammar) hasPrefix(prefix string) bool {
	for _, p := range g.prefixes {
		if p == prefix {
			return true
		}
	}
	return false
}

func (g *Grammar) addEnvironment(environment string) {
	for _, e := range g.environments {
		if e == environment {
			return
		}
	}
	g.environments = append(g.environments, environment)
}

func checkFormat(f Format) error {
	if f.Checksum != CRC32 && f.Checksum != NoChecksum {
		return fmt.Errorf("format: unknown checksum %q: it is crc32 or none", f.Checksum)
	}
	random, need := f.Length, Base62.chars(randomBits)
	if f.Checksum == CRC32 {
		random -= checksumLength
		need += checksumLength
	}
	if random < Base62.chars(randomBits) {
		return fmt.Errorf("format: length %d with checksum %s has fewer than %d random bits; set it to at least %d", f.Length, f.Checksum, randomBits, need)
	}
	if f.Length > maxLength {
		return fmt.Errorf("format: length %d is too long; %d is the most", f.Length, maxLength)
	}
	return nil
}

func checkPrefix(p Prefix, before []Prefix) error {
	switch {
	case p.Value == "":
		return errors.New("prefix: empty; issued keys need one to be told apart and found in logs")
	case len(p.Value) < minPrefix:
		return fmt.Errorf("prefix %q: too short; at least %d characters are needed", p.Value, minPrefix)
	case len(p.Value) > maxPrefix:
		return fmt.Errorf("prefix %q: %d characters; %d are the most", p.Value, len(p.Value), maxPrefix)
	case !consistsOf(p.Value, base62+"_-"):
		return fmt.Errorf("prefix %q: only A-Z, a-z, 0-9, _ and - may stand in it", p.Value)
	case p.Environment == "" || len(p.Environment) > maxEnvironment || !consistsOf(p.Environment, "abcdefghijklmnopqrstuvwxyz0123456789_-"):
		return fmt.Errorf("prefix %q: environment %q must be 1 to %d characters of a-z, 0-9, _ and -", p.Value, p.Environment, maxEnvironment)
	}
	for _, b := range before {
		if b.Value == p.Value {
			return fmt.Errorf("prefix %q: given twice", p.Value)
		}
		short, long := b.Value, p.Value
		if len(short) > len(long) {
			short, long = long, short
		}
		if rest, ok := strings.CutPrefix(long, short); ok && classBase62.within(rest) {
			return fmt.Errorf("prefix %q: ambiguous, %q could be a key of prefix %q; end the shorter with _", p.Value, long+"…", short)
		}
	}
	return nil
}

func checkAccept(a Accept, before []Accept) error {
	if a.Name == "" || len(a.Name) > maxName || !consistsOf(a.Name, base62+"_.-") {
		return fmt.Errorf("accept %q: a name is 1 to %d characters of A-Z, a-z, 0-9, _, . and -", a.Name, maxName)
	}
	for _, b := range before {
		if b.Name == a.Name {
			return fmt.Errorf("accept %q: given twice", a.Name)
		}
	}
	switch {
	case a.Prefix != "" && len(a.Prefix) < minPrefix:
		return fmt.Errorf("accept %q: prefix %q is too short; leave it out or give at least %d characters", a.Name, a.Prefix, minPrefix)
	case len(a.Prefix) > maxPrefix:
		return fmt.Errorf("accept %q: prefix %q has %d characters; %d are the most", a.Name, a.Prefix, len(a.Prefix), maxPrefix)
	case !classAny.within(a.Prefix) || strings.ContainsAny(a.Prefix, `%\`):
		return fmt.Errorf("accept %q: prefix %q may hold only visible ASCII characters other than comma, semicolon, quotes, %% and \\", a.Name, a.Prefix)
	case a.Charset.class() == 0:
		return fmt.Errorf("accept %q: unknown charset %q: it is base62, base58, hex or any", a.Name, a.Charset)
	case a.MinLength < minAccepted:
		return fmt.Errorf("accept %q: length from %d; the least is %d", a.Name, a.MinLength, minAccepted)
	case a.MaxLength > maxAccepted:
		return fmt.Errorf("accept %q: length to %d; the most is %d", a.Name, a.MaxLength, maxAccepted)
	case a.MinLength > a.MaxLength:
		return fmt.Errorf("accept %q: length from %d to %d has the larger first", a.Name, a.MinLength, a.MaxLength)
	}
	return nil
}

func consistsOf(s, chars string) bool {
	for i := range len(s) {
		if strings.IndexByte(chars, s[i]) < 0 {
			return false
		}
	}
	return true
}

// Match returns the shape that key has, checksum included, or nil. Issued shapes come before
// accepted ones, each in the order written. It does not allocate and reads no more of an overlong
// value than its length.
func (g *Grammar) Match(key string) *Shape {
	if len(key) > g.longest {
		return nil
	}
	for i := range g.shapes {
		if s := &g.shapes[i]; s.has(key) {
			return s
		}
	}
	return nil
}

// Prefixed reports whether s begins with one of the grammar's prefixes (issued or accepted,
// non-empty). It does not allocate.
func (g *Grammar) Prefixed(s string) bool {
	for _, p := range g.prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}

// Environments returns the environments in the order written, the first being the
// default. The caller may keep and change the result.
func (g *Grammar) Environments() []string {
	return append([]string(nil), g.environments...)
}

// Shapes returns the shapes, issued ones first, each part in the order written. The
// caller may keep and change the result.
func (g *Grammar) Shapes() []Shape {
	return append([]Shape(nil), g.shapes...)
}

// Shown returns the parts of a full key of this grammar that may be shown: its first twelve and its last four characters.
// For imported shapes the parts may be shorter, and for a text without a shape they are empty. If a key has several shapes,
// Shown returns the parts that all of these shapes allow.
func (g *Grammar) Shown(key string) (prefix, lastFour string) {
	if len(key) > g.longest {
		return "", ""
	}
	first, last := -1, -1
	for i := range g.shapes {
		s := &g.shapes[i]
		if !s.has(key) {
			continue
		}
		if first < 0 {
			first, last = s.ShownPrefix, s.ShownLast
		}
		first, last = min(first, s.ShownPrefix), min(last, s.ShownLast)
	}
	if first < 0 {
		return "", ""
	}
	return key[:first], key[len(key)-last:]
}
