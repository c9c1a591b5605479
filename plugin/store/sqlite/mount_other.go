//go:build !linux

package sqlite

// checkMount returns nil, since only Linux can mount single files.
func checkMount(string) error { return nil }
