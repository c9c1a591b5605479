package caddymodule

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/keygate-dev/keygate/plugin/engine"
	"github.com/keygate-dev/keygate/plugin/management/events"
)

// eventPrefix is the prefix of Keygate's events in Caddy's events app.
const eventPrefix = "keygate."

// subscriber forwards events to the configuration's events app. The event key.created is
// keygate.key.created there. Its data is the same as for webhooks, with id, type and timestamp.
type subscriber struct{ app *App }

var _ engine.Subscriber = subscriber{}

// Wants reports whether a handler of the events app, or its debug log, would receive events of
// this type.
func (s subscriber) Wants(eventType string) bool {
	return s.app.events.ShouldEmit(eventPrefix + eventType)
}

// Emit sends the event to the events app.
func (s subscriber) Emit(e events.Event) error {
	data := map[string]any{}
	if err := json.Unmarshal(e.Data, &data); err != nil {
		return fmt.Errorf("reading the event's data: %w", err)
	}
	data["id"], data["type"], data["timestamp"] = e.ID, e.Type, e.At.UTC().Format(time.RFC3339Nano)
	s.app.events.Emit(s.app.ctx, eventPrefix+e.Type, data)
	return nil
}
