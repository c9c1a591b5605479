package api

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/keygate-dev/keygate/plugin/management"
)

// However many fields no one knows, the answer names the first of them, and costs no more than these.
func TestUnknownFieldsAreBounded(t *testing.T) {
	o := &object{}
	for i := range 50_000 {
		o.fields = append(o.fields, member{name: fmt.Sprintf("f%05d", (i*7919)%50_000)})
	}
	var refusal *management.Error
	if !errors.As(o.done(), &refusal) || len(refusal.Fields) != maxUnknown {
		t.Fatalf("the refusal is %v", refusal)
	}
	for i, f := range refusal.Fields {
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
	var refusal *management.Error
	if _, err := parseObject(body(maxFields + 1)); !errors.As(err, &refusal) || refusal.Status != 400 {
		t.Errorf("one more: %v", err)
	}
}
