// Package auth issues and checks the credentials of people and programs that manage Keygate: management tokens, sessions
// at the console, and portal links.
package auth

import (
	"context"

	"github.com/keygate-dev/keygate/internal/turns"
	"github.com/keygate-dev/keygate/plugin/management"
)

// Authority issues and checks management tokens, sessions at the console and portal links. Its methods may block on the
// store and are safe for concurrent use.
type Authority struct {
	manager *management.Manager
	tokens  tokenCache
	// unknowns limits how often the store is asked for tokens, sessions and links that may not exist.
	unknowns *turns.Queue
	sessions knownSessions
}

// New returns the Authority of a manager's store. A process needs only one: it caches tokens, and limits look-ups.
func New(m *management.Manager) *Authority {
	auth := &Authority{manager: m}
	auth.LimitLookups(unknownRules)
	return auth
}

// LimitLookups replaces the limits of look-ups for unknown tokens, sessions and links. It must not be called while others
// use auth.
func (auth *Authority) LimitLookups(rules turns.Rules) { auth.unknowns = turns.New(rules) }

// call is a transaction of package management, with access to the rows of this package.
type call struct {
	*management.Call
	Tx
}

func (auth *Authority) read(ctx context.Context, a management.Actor, keyspace string, f func(*call) error) error {
	return auth.manager.Read(ctx, a, keyspace, inCall(f))
}

func (auth *Authority) write(ctx context.Context, a management.Actor, keyspace string, f func(*call) error) error {
	return auth.manager.Write(ctx, a, keyspace, inCall(f))
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

func inRows(f func(Tx) error) func(management.Tx) error {
	return func(tx management.Tx) error {
		rows, err := management.Role[Tx](tx)
		if err != nil {
			return err
		}
		return f(rows)
	}
}
