//go:build !linux && !darwin

package webhook

import "errors"

// listeningPorts does not know the process's listeners on this system.
func listeningPorts() (map[uint16]bool, error) { return nil, errors.ErrUnsupported }
