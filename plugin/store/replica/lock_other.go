//go:build !(linux || darwin || freebsd || netbsd || openbsd)

package replica

// lockFile does nothing where files can't be locked: each gateway must be given its own.
func lockFile(string) (unlock func(), err error) { return func() {}, nil }
