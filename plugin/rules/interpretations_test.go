package rules

import (
	"strings"
	"testing"
)

// The number and the total length of the interpretations of one path are bounded.
func TestInterpretationsAreBounded(t *testing.T) {
	const unit = "/%2f..%5c;a/%252e"
	short, ok := interpretations("/s3"+unit[:9], nil)
	if !ok || len(short) < 4 {
		t.Errorf("a short path: %d interpretations, %v", len(short), ok)
	}
	for _, n := range []int{1, 10, 60, 110, 120} {
		path := strings.Repeat(unit, n)
		got, _ := interpretations(path, nil)
		if all := len(strings.Join(got, "")); all > maxInterpretedBytes || len(got) > maxInterpretations {
			t.Errorf("%d times: %d interpretations of %d bytes", n, len(got), all)
		}
	}
}
