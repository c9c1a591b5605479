package config

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// LastAdapted holds the line numbers of the Caddyfile that this process adapted last. A
// configuration in JSON holds no line numbers, so warnings at the start take them from here.
var LastAdapted AdaptedLines

// AdaptedLines holds the places of a Caddyfile's directives and of the global option's fields.
type AdaptedLines struct {
	mu     sync.Mutex
	global lines
	// handlers holds the lines of keygate directives. The keys are the directives' configurations
	// in JSON, since several sites may have the same directive.
	handlers map[string][]string
}

// setGlobal discards all recorded lines and stores the lines of a global option.
func (a *AdaptedLines) setGlobal(l lines) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.global, a.handlers = l, make(map[string][]string)
}

// addHandler records d's current token as the place of the directive that c was read from.
func (a *AdaptedLines) addHandler(c *HandlerConfig, d *caddyfile.Dispenser) {
	key, err := json.Marshal(c)
	if err != nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.handlers != nil {
		a.handlers[string(key)] = append(a.handlers[string(key)], position(d.Token()))
	}
}

// Take returns the recorded lines and discards them, because the next configuration may not come
// from this process's Caddyfile.
func (a *AdaptedLines) Take() *AdaptedLines {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := &AdaptedLines{global: a.global, handlers: a.handlers}
	a.global, a.handlers = nil, nil
	return out
}

// Field returns file and line of a field of the global option. If the field has none, Field
// returns those of the nearest option around it, or "".
func (a *AdaptedLines) Field(path string) string {
	for ; path != ""; path = path[:max(strings.LastIndexAny(path, ".["), 0)] {
		if t, ok := a.global[path]; ok {
			return position(t)
		}
	}
	return ""
}

// Handler returns file and line of each directive with the configuration c, or "" if none is
// recorded.
func (a *AdaptedLines) Handler(c *HandlerConfig) string {
	key, err := json.Marshal(c)
	if err != nil {
		return ""
	}
	return strings.Join(a.handlers[string(key)], ", ")
}

func position(t caddyfile.Token) string { return fmt.Sprintf("%s:%d", t.File, t.Line) }
