package caddymodule

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyevents"

	"github.com/keygate-dev/keygate/plugin/management"
)

// eventPrefix begins the names of our events in Caddy's events app.
const eventPrefix = "keygate."

// maxUnheard is how many events wait for the handlers of Caddy's events app, which run one
// after the other.
const maxUnheard = 1024

// events passes what happens on to Caddy's events app, where the configuration subscribes to
// it: the event key.created is keygate.key.created there, and its data has what webhooks get,
// with id, type and timestamp. It implements management.EventListener.
type events struct {
	engine *engine
	queue  chan management.Event
	once   sync.Once
	done   chan struct{}
}

func newEvents(e *engine) *events {
	return &events{engine: e, queue: make(chan management.Event, maxUnheard), done: make(chan struct{})}
}

// listeners returns the events app of a configuration; nil while it is starting, since
// subscriptions may still be added then.
func (a *App) listeners() *caddyevents.App {
	if !a.settled.Load() {
		if runningApp() != a {
			return nil
		}
		a.settled.Store(true)
	}
	return a.events
}

// listening returns the newest configuration whose events app may be asked.
func (e *engine) listening() (*App, *caddyevents.App) {
	e.mu.Lock()
	apps := slices.Clone(e.apps)
	e.mu.Unlock()
	for _, app := range slices.Backward(apps) {
		if l := app.listeners(); l != nil {
			return app, l
		}
	}
	return nil, nil
}

// Wants says whether a handler of the running configuration, or its debug log, would hear of a type.
func (v *events) Wants(eventType string) bool {
	_, l := v.engine.listening()
	return l != nil && l.ShouldEmit(eventPrefix+eventType)
}

// Receive passes an event on, soon.
func (v *events) Receive(e management.Event) {
	v.once.Do(func() { go v.run() })
	select {
	case v.queue <- e:
	default:
		v.engine.logger().Warn("an event is not passed on to Caddy's events app: its handlers are too slow", "event", e.Type, "id", e.ID)
	}
}

// close ends passing on. It does not wait for a handler.
func (v *events) close() { close(v.done) }

func (v *events) run() {
	for {
		select {
		case e := <-v.queue:
			v.emit(e)
		case <-v.done:
			return
		}
	}
}

func (v *events) emit(e management.Event) {
	defer func() {
		if p := recover(); p != nil {
			v.engine.logger().Error("a handler of Caddy's events app failed", "event", e.Type, "id", e.ID, "panic", fmt.Sprint(p))
		}
	}()
	app, l := v.engine.listening()
	if l == nil {
		return
	}
	data := map[string]any{}
	if err := json.Unmarshal(e.Data, &data); err != nil {
		v.engine.logger().Error("an event can't be read", "event", e.Type, "id", e.ID, "error", err)
		return
	}
	data["id"], data["type"], data["timestamp"] = e.ID, e.Type, e.At.UTC().Format(time.RFC3339Nano)
	l.Emit(app.ctx, eventPrefix+e.Type, data)
}

// logger returns the engine's logger.
func (e *engine) logger() *slog.Logger { return slog.New(e.log) }

var _ management.EventListener = (*events)(nil)
