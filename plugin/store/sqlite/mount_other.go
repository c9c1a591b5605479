//go:build !linux

package sqlite

// CheckMount returns nil, because only Linux can mount single files.
func CheckMount(string) error { return nil }
