package apikey

import (
	"crypto/rand"
	"fmt"
	"strings"
)

// Generate returns a new full key of the environment, made with crypto/rand and the first prefix
// that is configured for it. "" means the default environment. Its only error wraps
// ErrEnvironment. It blocks only until the system has entropy.
func (g *Grammar) Generate(environment string) (string, error) {
	if environment == "" {
		environment = g.environments[0]
	}
	for i := range g.shapes {
		s := &g.shapes[i]
		if s.Issued && s.Environment == environment {
			return s.generate(), nil
		}
	}
	return "", fmt.Errorf("%w %q: keys are issued for %s", ErrEnvironment, environment, strings.Join(g.environments, ", "))
}

func (s *Shape) generate() string {
	random := s.MinLength
	if s.Checksum == CRC32 {
		random -= checksumLength
	}
	key := make([]byte, 0, len(s.Prefix)+s.MinLength)
	key = append(key, s.Prefix...)
	key = appendRandom(key, random)
	if s.Checksum == CRC32 {
		sum := checksum(string(key[len(s.Prefix):]))
		key = append(key, sum[:]...)
	}
	return string(key)
}

// appendRandom appends n uniform base62 characters. crypto/rand.Read returns no error:
// a system without entropy ends the program.
func appendRandom(dst []byte, n int) []byte {
	var pool [64]byte
	for n > 0 {
		rand.Read(pool[:])
		for _, b := range pool {
			c, ok := digit(b)
			if !ok {
				continue
			}
			dst = append(dst, c)
			if n--; n == 0 {
				break
			}
		}
	}
	return dst
}

// digit turns a random byte into a base62 character, or rejects it: the 8 values
// above 247 would make the first 8 characters likelier.
func digit(b byte) (byte, bool) {
	const fair = 256 - 256%62
	return base62[b%62], b < fair
}
