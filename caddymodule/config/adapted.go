package config

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// LastAdapted remembers the lines of the Caddyfile that this process adapted last, so that a warning at the
// start can name them: a configuration in JSON holds none. A start takes them.
var LastAdapted AdaptedLines

type AdaptedLines struct {
	mu     sync.Mutex
	global lines
	// handlers are the places of keygate directives by their configuration in JSON: several
	// sites may state the same one.
	handlers map[string][]string
}

// setGlobal forgets the lines so far and keeps those of a global option.
func (a *AdaptedLines) setGlobal(l lines) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.global, a.handlers = l, make(map[string][]string)
}

// addHandler notes that d's current token states a directive.
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

// Take returns the lines and forgets them: the next configuration may come from another process.
func (a *AdaptedLines) Take() *AdaptedLines {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := &AdaptedLines{global: a.global, handlers: a.handlers}
	a.global, a.handlers = nil, nil
	return out
}

// Field returns file and line of a field of the global option, or of the option around it; "" where they
// are not known.
func (a *AdaptedLines) Field(path string) string {
	for ; path != ""; path = path[:max(strings.LastIndexAny(path, ".["), 0)] {
		if t, ok := a.global[path]; ok {
			return position(t)
		}
	}
	return ""
}

// Handler returns file and line of a directive; "" where they are not known.
func (a *AdaptedLines) Handler(c *HandlerConfig) string {
	key, err := json.Marshal(c)
	if err != nil {
		return ""
	}
	return strings.Join(a.handlers[string(key)], ", ")
}

func position(t caddyfile.Token) string { return fmt.Sprintf("%s:%d", t.File, t.Line) }
