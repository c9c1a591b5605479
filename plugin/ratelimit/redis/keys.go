package redis

import (
	"strconv"

	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

// nodesKey is the key of the set of nodes that share the counts.
const nodesKey = KeyPrefix + "{nodes}"

// keyOf returns the Redis key of an ask's count.
func keyOf(a *ratelimit.Ask) string {
	b := make([]byte, 0, 128)
	b = append(b, KeyPrefix+"{"...)
	b = append(append(b, slot(a)...), '}', ':')
	switch a.Kind {
	case ratelimit.Rate:
		b = append(b, "rate:"...)
		b = append(append(b, a.Subject...), ':')
		b = strconv.AppendInt(b, int64(a.Origin), 10)
	case ratelimit.Quota:
		b = append(b, "quota:"...)
		b = append(append(b, a.Subject...), ':')
		b = append(append(b, a.Calendar.String()...), ':')
		b = strconv.AppendInt(b, a.Start, 10)
	default:
		b = append(b, "slots:"...)
		b = append(b, a.Subject...)
	}
	return string(b)
}

// arguments are the arguments of a script.
type arguments []string

func (a *arguments) add(texts ...string) { *a = append(*a, texts...) }

func (a *arguments) int(numbers ...int64) {
	for _, n := range numbers {
		*a = append(*a, strconv.FormatInt(n, 10))
	}
}

func (a *arguments) bool(b bool) {
	if b {
		a.add("1")
	} else {
		a.add("0")
	}
}

// ask appends the arguments of charge.lua for one ask.
func (args *arguments) ask(a *ratelimit.Ask) {
	switch a.Kind {
	case ratelimit.Rate:
		signs := make([]byte, 0, 64)
		for i := range a.Rates {
			if i > 0 {
				signs = append(signs, ',')
			}
			_, _, _, sign := a.Rates[i].Scale()
			signs = append(signs, sign...)
		}
		args.add("r", string(signs))
		args.int(int64(len(a.Rates)))
		args.bool(a.Merge)
		for i := range a.Rates {
			r := &a.Rates[i]
			each, depth, micro, _ := r.Scale()
			args.int(micro, each, depth, r.Need, r.Extra, r.Hold, r.Hint, r.Return, r.From)
		}
	case ratelimit.Quota:
		args.add("q")
		args.int(a.Need, a.Extra, a.Limit, a.Seed, a.Carry, a.Keep)
	default:
		args.add("c")
		args.int(a.Need, a.Extra, a.Limit, a.Keep, int64(len(a.Slots)))
		args.add(a.Slots...)
	}
}
