//go:build !linux && !darwin

package webhook

import "errors"

// listeningPorts returns an error, as it is not supported on this system.
func listeningPorts() (map[uint16]bool, error) { return nil, errors.ErrUnsupported }
