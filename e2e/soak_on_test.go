//go:build soak

package e2e

// soaking says that tests may take their time.
const soaking = true
