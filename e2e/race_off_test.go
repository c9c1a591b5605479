//go:build !race

package e2e

// raceBuilt says that the tests were built with -race.
const raceBuilt = false
