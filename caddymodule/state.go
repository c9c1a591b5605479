package caddymodule

import "github.com/keygate-dev/keygate/caddymodule/redact"

// directiveState is what the directives that one request meets know of each other. It belongs to the request's log.
type directiveState struct {
	// checked reports whether a directive has checked the request: later ones pass it on.
	checked bool
	// rejected is the error by which a directive rejected the request, nil where none did.
	rejected error
	// removed is the upgrade that was removed, since the request was not checked.
	removed *removedUpgrade
}

// stateOf returns the state of the request with that first log, nil where log is nil or has none.
func stateOf(first *redact.RequestLog) *directiveState {
	if first == nil {
		return nil
	}
	state, _ := first.State.(*directiveState)
	return state
}

// shareState returns the state of log's request. It is state where no other directive has set one.
func shareState(log *redact.RequestLog, state *directiveState) *directiveState {
	first := log.First()
	if shared := stateOf(first); shared != nil {
		return shared
	}
	first.State = state
	return state
}
