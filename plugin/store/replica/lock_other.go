//go:build !(linux || darwin || freebsd || netbsd || openbsd)

package replica

// lockFile does nothing, since these systems can't lock files. The operator must give each gateway
// a file of its own.
func lockFile(string) (unlock func(), err error) { return func() {}, nil }
