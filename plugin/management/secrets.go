package management

import (
	"encoding/json"
	"maps"
	"slices"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

// Many people read records, audit events and webhooks. So no text of a caller may hold a key.

// WithoutSecrets returns s with the keyspace's keys and the management tokens removed. It returns
// s itself where there are none.
func WithoutSecrets(ks *gateway.Keyspace, s string) string {
	return CleanTokens(ks.Grammar.Clean(s))
}

// HoldsSecret reports whether s holds a key of the keyspace or a management token, or a large part
// of one.
func HoldsSecret(ks *gateway.Keyspace, s string) bool { return WithoutSecrets(ks, s) != s }

// secretText is the fault of a field that holds a secret.
const secretText = "must not hold an API key or a management token; name it by its id or its visible prefix"

// CheckSecret records a fault if s holds a secret.
func (c *Call) CheckSecret(f *Faults, field, s string) {
	if HoldsSecret(c.Keyspace, s) {
		f.Invalid(field, secretText)
	}
}

// checkEvent returns an error if the call's event holds a secret.
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
