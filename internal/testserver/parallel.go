package testserver

import (
	"flag"
	"os"
	"strconv"
	"testing"
)

// RunParallel runs the tests of m and exits. Call it from the TestMain of a package whose tests
// mostly wait: it lets at least n parallel tests run at a time, even on a machine with fewer
// processors.
func RunParallel(m *testing.M, n int) {
	flag.Parse()
	if parallel := flag.Lookup("test.parallel"); parallel != nil {
		if now, err := strconv.Atoi(parallel.Value.String()); err == nil && now < n {
			_ = flag.Set("test.parallel", strconv.Itoa(n))
		}
	}
	os.Exit(m.Run())
}
