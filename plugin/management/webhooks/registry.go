// Package webhooks manages webhooks: their URLs, the events that each receives, and their
// deliveries. It also announces the one-shot events that no management request causes. Package
// webhook sends the deliveries.
//
//	registry.go  the Registry and its transactions
//	webhook.go   webhooks and their secrets
//	scopes.go    the scopes that a token needs to subscribe
//	reach.go     the addresses to which webhooks are delivered
//	delivery.go  lists of deliveries, and replays
//	announce.go  a product's own events, and one-shot events
//	expiry.go    one-shot events of keys that expire or are unused
package webhooks

import (
	"context"

	"github.com/keygate-dev/keygate/plugin/management"
)

// Registry manages webhooks. Its methods may block on the store and are safe for concurrent use.
// They return errors like those of management.Manager.
type Registry struct {
	manager  *management.Manager
	settings func(keyspace string) Settings
}

// New returns the Registry of a manager's store. settings returns the settings of a keyspace in
// the active configuration. If it is nil, no webhook can be created.
func New(m *management.Manager, settings func(keyspace string) Settings) *Registry {
	if settings == nil {
		settings = func(string) Settings { return Settings{} }
	}
	return &Registry{m, settings}
}

// call is a transaction of package management, with access to the rows of this package.
type call struct {
	*management.Call
	Tx
}

func (reg *Registry) read(ctx context.Context, a management.Actor, keyspace string, f func(*call) error) error {
	return reg.manager.Read(ctx, a, keyspace, inCall(f))
}

func (reg *Registry) write(ctx context.Context, a management.Actor, keyspace string, f func(*call) error) error {
	return reg.manager.Write(ctx, a, keyspace, inCall(f))
}

func inCall(f func(*call) error) func(*management.Call) error {
	return func(c *management.Call) error {
		rows, err := management.Role[Tx](c.Tx)
		if err != nil {
			return err
		}
		return f(&call{c, rows})
	}
}
