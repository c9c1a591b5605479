package management

import (
	"encoding/json"
	"maps"
	"slices"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

// Records, audit events and webhooks are read by many. So no text that a caller states may hold a key.

// WithoutSecrets returns s without the keyspace's keys and management tokens; s itself where there is none.
func WithoutSecrets(ks *gateway.Keyspace, s string) string {
	return CleanTokens(ks.Grammar.Clean(s))
}

// HoldsSecret reports whether s holds a key of the keyspace or a management token, or most of one.
func HoldsSecret(ks *gateway.Keyspace, s string) bool { return WithoutSecrets(ks, s) != s }

// secretText says what is wrong with a field that holds a secret.
const secretText = "must not hold an API key or a management token; name it by its id or by what of it is shown"

// CheckSecret notes a text that holds a secret.
func (c *Call) CheckSecret(f *Faults, field, s string) {
	if HoldsSecret(c.Keyspace, s) {
		f.Invalid(field, secretText)
	}
}

// checkEvent refuses a change of which the event would hold a secret.
func (c *Call) checkEvent() error {
	var f Faults
	for _, name := range slices.Sorted(maps.Keys(c.Event.After)) {
		b, err := json.Marshal(c.Event.After[name])
		if err != nil {
			return err
		}
		c.CheckSecret(&f, name, string(b))
	}
	return f.Err()
}
