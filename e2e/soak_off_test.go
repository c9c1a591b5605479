//go:build !soak

package e2e

// soaking is true in soak tests, which may take long.
const soaking = false
