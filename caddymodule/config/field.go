package config

import (
	"errors"
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// fieldError is an error about one field of the configuration. path leads to the field from where
// the check began: `plans[1].limits[0]`. For JSON the message includes the path; for a Caddyfile,
// locate replaces it with file and line.
type fieldError struct {
	path string
	err  error
}

func (e *fieldError) Error() string {
	if e.path == "" {
		return e.err.Error()
	}
	return e.path + ": " + e.err.Error()
}

func (e *fieldError) Unwrap() error { return e.err }

// Errorf returns a fieldError for the field path.
func Errorf(path, format string, args ...any) error {
	return &fieldError{path: path, err: fmt.Errorf(format, args...)}
}

// within puts the field parent before the path of an error. A nil error stays nil.
func within(parent string, err error) error {
	if err == nil {
		return nil
	}
	var fe *fieldError
	if !errors.As(err, &fe) {
		return &fieldError{path: parent, err: err}
	}
	switch {
	case fe.path == "":
		return &fieldError{path: parent, err: fe.err}
	case strings.HasPrefix(fe.path, "["):
		return &fieldError{path: parent + fe.path, err: fe.err}
	}
	return &fieldError{path: parent + "." + fe.path, err: fe.err}
}

// lines maps fields to the Caddyfile tokens that set them.
type lines map[string]caddyfile.Token

// note records that the dispenser's current token sets the field path.
func (l lines) note(path string, d *caddyfile.Dispenser) { l[path] = d.Token() }

// locate turns a fieldError into an error that names file and line: those of the field, else of
// the nearest recorded field around it, else of d's current token.
func (l lines) locate(d *caddyfile.Dispenser, err error) error {
	var fe *fieldError
	if err == nil || !errors.As(err, &fe) {
		return err
	}
	for path := fe.path; path != ""; path = path[:max(strings.LastIndexAny(path, ".["), 0)] {
		if t, ok := l[path]; ok {
			at := caddyfile.NewDispenser([]caddyfile.Token{t})
			at.Next()
			return at.WrapErr(fe.err)
		}
	}
	return d.WrapErr(fe.err)
}
