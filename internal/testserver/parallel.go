package testserver

import (
	"flag"
	"os"
	"strconv"
	"testing"
)

// RunParallel is a TestMain for packages whose tests mostly wait. At least n parallel tests run at the same
// time, however few processors there are.
func RunParallel(m *testing.M, n int) {
	flag.Parse()
	if parallel := flag.Lookup("test.parallel"); parallel != nil {
		if now, err := strconv.Atoi(parallel.Value.String()); err == nil && now < n {
			_ = flag.Set("test.parallel", strconv.Itoa(n))
		}
	}
	os.Exit(m.Run())
}
