package apikey

import (
	"strings"
	"testing"
)

func TestMapParts(t *testing.T) {
	for in, want := range map[string]string{"": "", ";": ";", "a;b": "A;B", ";a;;b;": ";A;;B;"} {
		if got := mapParts(in, ';', strings.ToUpper); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
}
