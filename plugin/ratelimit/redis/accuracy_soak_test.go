//go:build soak

package redis_test

import (
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testserver"
)

// TestMatrix checks that exact mode admits at most burst + rate × time requests, and at least 99 % of them. Leased mode must
// admit at least 97 %, and with the larger limits at most 5 % of the requests may wait for Redis. Valkey runs the same
// scripts, so only the rows with the most nodes test Valkey.
func TestMatrix(t *testing.T) {
	windows := map[int]time.Duration{10: time.Second, 100: 2 * time.Second, 1000: 2 * time.Second, 10_000: 4 * time.Second}
	for _, kind := range testserver.RedisKinds() {
		for _, leased := range []bool{false, true} {
			for _, limit := range []int{10, 100, 1000, 10_000} {
				for _, nodes := range []int{1, 3, 5, 9} {
					for _, offered := range []float64{0.9, 1, 1.5, 2} {
						if kind != testserver.RedisServer && (nodes != 9 || offered != 1.5) {
							continue
						}
						tr := trial{leased, nodes, limit, windows[limit], offered, 3}
						t.Run(string(kind)+"/"+tr.String(), func(t *testing.T) {
							r := tr.run(t, kind.URL(t))
							atLeast := 0.99
							if leased {
								atLeast = 0.97
							}
							tr.check(t, r, atLeast)
							if leased && limit >= 1000 && r.waited > 0.05 {
								t.Errorf("%.1f%% of the requests waited", 100*r.waited)
							}
						})
					}
				}
			}
		}
	}
}
