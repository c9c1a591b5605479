package engine

import (
	"fmt"
	"slices"
	"sync"

	"github.com/keygate-dev/keygate/plugin/management/events"
)

// Subscriber receives the events of a configuration, such as Caddy's events app.
type Subscriber interface {
	// Wants reports whether the subscriber would receive an event of a type. It does not block.
	Wants(eventType string) bool
	// Emit passes an event on to the subscriber. Emit may block, which delays later events.
	Emit(events.Event) error
}

// maxQueued is how many events may wait for a Subscriber.
const maxQueued = 1024

// relay passes events on to the Subscriber of the newest configuration that is active. It
// implements events.Listener.
type relay struct {
	engine *Engine
	queue  chan events.Event
	once   sync.Once
	done   chan struct{}
}

var _ events.Listener = (*relay)(nil)

func newRelay(e *Engine) *relay {
	return &relay{engine: e, queue: make(chan events.Event, maxQueued), done: make(chan struct{})}
}

// subscriber returns the Subscriber that receives events now, or nil if there is none. While a
// configuration is not active yet, because other parts of the program still start, subscriber returns
// the Subscriber of the configuration before.
func (v *relay) subscriber() Subscriber {
	v.engine.mu.Lock()
	configs := slices.Clone(v.engine.configs)
	v.engine.mu.Unlock()
	for _, a := range slices.Backward(configs) {
		if a.active() {
			return a.Events
		}
	}
	return nil
}

// Wants implements events.Listener.
func (v *relay) Wants(eventType string) bool {
	s := v.subscriber()
	return s != nil && s.Wants(eventType)
}

// Receive queues an event for the Subscriber of the active configuration.
func (v *relay) Receive(e events.Event) {
	v.once.Do(func() { go v.run() })
	select {
	case v.queue <- e:
	default:
		v.engine.log.Warn("an event was not passed to Caddy's events app, because the app's handlers are too slow: they never get this event", "event", e.Type, "id", e.ID)
	}
}

// close stops passing events on. It does not wait for the Subscriber.
func (v *relay) close() { close(v.done) }

func (v *relay) run() {
	for {
		select {
		case e := <-v.queue:
			v.emit(e)
		case <-v.done:
			return
		}
	}
}

func (v *relay) emit(e events.Event) {
	defer func() {
		if p := recover(); p != nil {
			v.engine.log.Error("a handler of Caddy's events app failed", "event", e.Type, "id", e.ID, "panic", fmt.Sprint(p))
		}
	}()
	s := v.subscriber()
	if s == nil {
		return
	}
	if err := s.Emit(e); err != nil {
		v.engine.log.Error("an event can't be passed on to Caddy's events app", "event", e.Type, "id", e.ID, "error", err)
	}
}
