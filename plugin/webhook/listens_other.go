//go:build !linux && !darwin

package webhook

import "errors"

// listeningPorts returns an error, because this system does not show the sockets of a process.
func listeningPorts() (map[uint16]bool, error) { return nil, errors.ErrUnsupported }
