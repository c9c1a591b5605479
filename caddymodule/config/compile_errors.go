package config

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/keygate-dev/keygate/plugin/gateway"
)

// Styles of rejections' bodies.
const (
	StyleProblem  = "problem"
	StyleDetail   = "detail"
	StyleEnvelope = "envelope"
)

// maxMessage is the longest message of a rejection, in bytes.
const maxMessage = 1000

var refusalCode = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.:/-]{0,99}$`)

// Compile returns the status, code and message of every rejection reason, with defaults filled in.
// c may be nil.
func (c *ErrorsConfig) Compile() (out [gateway.NumReasons]gateway.Refusal, err error) {
	for r := gateway.MissingKey; r < gateway.NumReasons; r++ {
		out[r] = gateway.Refusal{Status: r.Status(), Code: r.String(), Message: r.Message()}
	}
	if c == nil {
		return out, nil
	}
	switch c.Style {
	case "", StyleProblem, StyleDetail, StyleEnvelope:
	default:
		return out, Errorf("style", "errors are 'problem', 'detail' or 'envelope', not '%s'", c.Style)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Refusals)) {
		path := "refusals." + name
		r, ok := gateway.ParseReason(name)
		if !ok {
			return out, Errorf(path, "unknown reason '%s' (available: %s)", name, reasonNames())
		}
		o := c.Refusals[name]
		if o == nil {
			continue
		}
		if o.Status != 0 {
			if o.Status < 400 || o.Status > 599 {
				return out, Errorf(path+".status", "status %d of %s: a refusal's status is 400 to 599", o.Status, name)
			}
			out[r].Status = o.Status
		}
		if o.Code != "" {
			if c.Style == StyleDetail {
				return out, Errorf(path+".code", "code of %s: bodies of the style 'detail' carry no code", name)
			}
			if !refusalCode.MatchString(o.Code) {
				return out, Errorf(path+".code", "code of %s: '%s' is not 1 to 100 of letters, digits and '_.:/-'", name, o.Code)
			}
			out[r].Code = o.Code
		}
		if o.Message != "" {
			if len(o.Message) > maxMessage || !utf8.ValidString(o.Message) || strings.ContainsFunc(o.Message, unicode.IsControl) {
				return out, Errorf(path+".message", "message of %s: at most %d bytes of text without control characters", name, maxMessage)
			}
			out[r].Message = o.Message
		}
	}
	return out, nil
}

// reasonNames returns the names of all rejection reasons, separated by commas, for an error
// message.
func reasonNames() string {
	var names []string
	for r := gateway.MissingKey; r < gateway.NumReasons; r++ {
		names = append(names, r.String())
	}
	return strings.Join(names, ", ")
}
