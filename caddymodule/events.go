package caddymodule

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/keygate-dev/keygate/plugin/engine"
	"github.com/keygate-dev/keygate/plugin/management/events"
)

// eventPrefix begins the names of our events in Caddy's events app.
const eventPrefix = "keygate."

// subscriber passes events on to the events app of a configuration: the event key.created is keygate.key.created there, and
// its data has what webhooks get, with id, type and timestamp.
type subscriber struct{ app *App }

var _ engine.Subscriber = subscriber{}

// Wants reports whether a handler of the events app, or its debug log, would receive a type.
func (s subscriber) Wants(eventType string) bool {
	return s.app.events.ShouldEmit(eventPrefix + eventType)
}

// Emit implements engine.Subscriber.
func (s subscriber) Emit(e events.Event) error {
	data := map[string]any{}
	if err := json.Unmarshal(e.Data, &data); err != nil {
		return fmt.Errorf("reading its data: %w", err)
	}
	data["id"], data["type"], data["timestamp"] = e.ID, e.Type, e.At.UTC().Format(time.RFC3339Nano)
	s.app.events.Emit(s.app.ctx, eventPrefix+e.Type, data)
	return nil
}
