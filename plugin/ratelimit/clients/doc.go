// Package clients counts by client address: the subjects of limits "per address", and failed
// attempts.
package clients
