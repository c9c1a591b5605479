//go:build !(linux || darwin || freebsd || netbsd || openbsd)

package replica

// lockFile does nothing on systems that can't lock files. The operator must give each gateway its own
// replica file.
func lockFile(string) (unlock func(), err error) { return func() {}, nil }
