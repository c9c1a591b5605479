//go:build race

package e2e

// raceBuilt says that the tests were built with -race: then the gateway is too, and
// reports what it finds in its log, which fails the test that started it.
const raceBuilt = true
