//go:build !linux

package sqlite

// checkMount returns nil: only Linux mounts single files.
func checkMount(string) error { return nil }
