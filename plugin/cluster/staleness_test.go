package cluster

import (
	"testing"
	"time"
	"unsafe"
)

// set returns t as it would be after the wall clock was set forward by d. The monotonic clock in t stays
// unchanged.
func set(t time.Time, d time.Duration) time.Time {
	// A time.Time with a monotonic reading begins with a 64-bit word. The word holds the wall clock's seconds
	// above 30 bits of nanoseconds.
	*(*uint64)(unsafe.Pointer(&t)) += uint64(d/time.Second) << 30
	return t
}

func TestDeadline(t *testing.T) {
	from := time.Now()
	h := newDeadline(from, Staleness{Default: time.Hour, Keyspaces: map[string]time.Duration{"bank": time.Minute, "bulk": 24 * time.Hour}})
	if d := set(from, time.Hour).Sub(from); d != 0 || set(from, time.Hour).UnixNano()-from.UnixNano() != int64(time.Hour) {
		t.Fatalf("setting the clock by an hour: %v", d)
	}
	for _, c := range []struct {
		name                   string
		now                    time.Time
		bank, other, bulk, all bool
	}{
		{"at once", from, false, false, false, false},
		{"in two minutes", from.Add(2 * time.Minute), true, false, false, false},
		{"in two hours", from.Add(2 * time.Hour), true, true, false, false},
		{"in two days", from.Add(48 * time.Hour), true, true, true, true},
		{"after the machine was suspended for two minutes", set(from, 2*time.Minute), true, false, false, false},
		{"after the machine was suspended for two days", set(from, 48*time.Hour), true, true, true, true},
		{"in two hours, the clock having been set back", set(from.Add(2*time.Hour), -2*time.Hour), true, true, false, false},
	} {
		got := [...]bool{h.passed(c.now, "bank"), h.passed(c.now, "other"), h.passed(c.now, "bulk"), h.allPassed(c.now)}
		if want := [...]bool{c.bank, c.other, c.bulk, c.all}; got != want || h.anyPassed(c.now) != c.bank {
			t.Errorf("%s: %v, want %v", c.name, got, want)
		}
	}
	var none *deadline
	if !none.passed(from, "bank") || !none.allPassed(from) || !none.anyPassed(from) {
		t.Error("a nil deadline has not passed")
	}
	if back := monotonic(from.Round(0)); time.Until(back) > 0 || from.Sub(back).Abs() > time.Minute {
		t.Errorf("from a file: %v, written %v", back, from)
	}
}
