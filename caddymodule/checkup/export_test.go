package checkup

import (
	"fmt"

	"github.com/keygate-dev/keygate/caddymodule/config"
)

// RoutedHandler, RoutedHandlers and ConfiguredHTTP are exported for tests in package checkup_test,
// which import all modules of Keygate.
type RoutedHandler = routedHandler

var (
	RoutedHandlers = routedHandlers
	ConfiguredHTTP = configuredHTTP
)

func (h *routedHandler) Site() string                       { return h.site() }
func (h *routedHandler) Module() string                     { return h.module() }
func (h *routedHandler) InErrorRoute() bool                 { return h.inErrorRoute() }
func (h *routedHandler) InResponseRoute() bool              { return h.inResponseRoute() }
func (h *routedHandler) Precedes(other *routedHandler) bool { return h.precedes(other) }
func (h *routedHandler) Covers(other *routedHandler) bool   { return h.covers(other) }
func (h *routedHandler) Depth() int                         { return len(h.path) }

// WarningLines returns the warnings as text, one line each.
func (a *Checkup) WarningLines(at *config.AdaptedLines) (out []string) {
	for _, w := range a.warnings(at) {
		out = append(out, fmt.Sprint(w.level, " ", w.at, " ", w.message, " ", w.attrs))
	}
	return out
}
