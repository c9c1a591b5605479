package api

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/keygate-dev/keygate/plugin/management"
)

// A body with very many unknown fields is answered with the first of them by name, and costs no
// more allocations than one with few.
func TestUnknownFieldsAreBounded(t *testing.T) {
	o := &object{}
	for i := range 50_000 {
		o.fields = append(o.fields, member{name: fmt.Sprintf("f%05d", (i*7919)%50_000)})
	}
	var rejected *management.Error
	if !errors.As(o.done(), &rejected) || len(rejected.Fields) != maxUnknown {
		t.Fatalf("the error is %v", rejected)
	}
	for i, f := range rejected.Fields {
		if want := fmt.Sprintf("/f%05d", i); f.Pointer != want {
			t.Errorf("the field %d is %s, want %s", i, f.Pointer, want)
		}
	}
	if n := testing.AllocsPerRun(3, func() { o.done() }); n > 100 {
		t.Errorf("it takes %v allocations", n)
	}
}

func TestTooManyFields(t *testing.T) {
	body := func(n int) []byte {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,"f%d":{"a":1}`, i)
		}
		return []byte("{" + strings.TrimPrefix(b.String(), ",") + "}")
	}
	if _, err := parseObject(body(maxFields)); err != nil {
		t.Error(err)
	}
	var rejected *management.Error
	if _, err := parseObject(body(maxFields + 1)); !errors.As(err, &rejected) || rejected.Status != 400 {
		t.Errorf("one more: %v", err)
	}
}
