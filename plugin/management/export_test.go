package management

import "github.com/keygate-dev/keygate/internal/turns"

// SpendTurns lets m look up no unknown token, session or link any more.
func (m *Manager) SpendTurns() {
	m.unknowns = turns.New(turns.Rules{Waiting: 10, PerClient: 10, Rate: 1})
}
