package testserver

import (
	"flag"
	"os"
	"strconv"
	"testing"
)

// RunAbreast is a TestMain for packages whose tests mostly wait, for servers and for what takes its time: n of the
// parallel ones at least run beside each other, however few processors there are.
func RunAbreast(m *testing.M, n int) {
	flag.Parse()
	if parallel := flag.Lookup("test.parallel"); parallel != nil {
		if now, err := strconv.Atoi(parallel.Value.String()); err == nil && now < n {
			_ = flag.Set("test.parallel", strconv.Itoa(n))
		}
	}
	os.Exit(m.Run())
}
