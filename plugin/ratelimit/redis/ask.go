package redis

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

var (
	//go:embed charge.lua
	chargeText string
	//go:embed adjust.lua
	adjustText string
	//go:embed reset.lua
	resetText string
	//go:embed giveback.lua
	giveBackText string
	//go:embed renew.lua
	renewText string
	//go:embed nodes.lua
	nodesText string

	// Redis runs each script by the hash of its text. If the server does not know the hash, it gets the text.
	chargeScript   = rueidis.NewLuaScript(chargeText)
	adjustScript   = rueidis.NewLuaScript(adjustText)
	resetScript    = rueidis.NewLuaScript(resetText)
	giveBackScript = rueidis.NewLuaScript(giveBackText)
	renewScript    = rueidis.NewLuaScript(renewText)
	nodesScript    = rueidis.NewLuaScript(nodesText)
)

// errUnreachable means that there is no connection to Redis.
var errUnreachable = errors.New("not connected to Redis")

// within returns the client and a context that ends after timeout. The context does not end with the request, because the
// disconnection of a client would look like an outage of Redis.
func (r *Redis) within(timeout time.Duration) (rueidis.Client, context.Context, context.CancelFunc, error) {
	client := r.client.Load()
	if client == nil {
		return nil, nil, nil, errUnreachable
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	return *client, ctx, cancel, nil
}

// Ask implements ratelimit.Remote.
func (r *Redis) Ask(_ context.Context, asks []ratelimit.Ask, peek bool) (taken bool, err error) {
	timeout := r.timeout()
	if peek {
		timeout = max(timeout, peekTimeout) // a person reads the state of limits, and can wait longer than a request
	}
	client, ctx, cancel, err := r.within(timeout)
	if err != nil {
		return false, err
	}
	defer cancel()
	if client.Mode() == rueidis.ClientModeCluster && spanSlots(asks) {
		return r.askPerSlot(ctx, client, asks, peek)
	}
	taken, err = r.charge(ctx, client, asks, peek)
	r.observe(err)
	return taken, err
}

// charge runs charge.lua on asks whose counts are in one hash slot.
func (r *Redis) charge(ctx context.Context, client rueidis.Client, asks []ratelimit.Ask, peek bool) (bool, error) {
	keys := make([]string, len(asks))
	args := make(arguments, 1, 2+12*len(asks))
	args[0] = "take"
	if peek {
		args[0] = "peek"
	}
	sent := time.Now()
	if peek {
		args.int(0)
	} else {
		args.int(r.clock.deadline(sent.Add(r.timeout())))
	}
	for i := range asks {
		keys[i] = keyOf(&asks[i])
		args.ask(&asks[i])
	}
	answer, err := chargeScript.Exec(ctx, client, keys, args).AsIntSlice()
	if err != nil {
		r.noteFailedSlot(asks)
		return false, err
	}
	if len(answer) < 2 {
		return false, errShort
	}
	r.clock.set(sent, answer[1])
	if answer[0] == answerLate {
		r.noteFailedSlot(asks)
		return false, context.DeadlineExceeded
	}
	return read(answer, asks)
}

// noteFailedSlot records the hash slot of asks that failed, for the next probe.
func (r *Redis) noteFailedSlot(asks []ratelimit.Ask) {
	if len(asks) > 0 {
		tag := slot(&asks[0])
		r.health.lastTag.Store(&tag)
	}
}

// answerLate is the answer of charge.lua when the script ran after the request's deadline and charged nothing.
const answerLate = 2

// errShort means that an answer does not have the form of charge.lua's answers.
var errShort = errors.New("Redis returned a malformed answer to the script")

// clock estimates the server's clock. ahead is the largest possible lead of the server's clock
// over this machine's, in microseconds, plus one; 0 for unknown. With it, each charge carries a
// deadline by the server's clock. Without the deadline, a stalled server or network could run a
// charge later, after this process has counted the request itself.
type clock struct{ ahead atomic.Int64 }

// deadline returns t by the server's clock, 0 if unknown.
func (c *clock) deadline(t time.Time) int64 {
	ahead := c.ahead.Load()
	if ahead == 0 {
		return 0
	}
	return t.UnixMicro() + ahead - 1
}

// set takes the server's time from the response to a call. sent is when the call was sent.
func (c *clock) set(sent time.Time, server int64) {
	if ahead := server - sent.UnixMicro() + 1; ahead != 0 {
		c.ahead.Store(ahead)
	}
}

// read stores the answer of charge.lua in the asks.
func read(answer []int64, asks []ratelimit.Ask) (taken bool, err error) {
	want := 2
	for i := range asks {
		want += 2 * max(len(asks[i].Rates), 1)
	}
	if len(answer) != want {
		return false, fmt.Errorf("%w: %d numbers instead of %d", errShort, len(answer), want)
	}
	taken = answer[0] == 1
	at := answer[1]
	answer = answer[2:]
	for i := range asks {
		a := &asks[i]
		a.At = at
		if a.Kind != ratelimit.Rate {
			a.Used, a.Granted = answer[0], answer[1]
			answer = answer[2:]
			continue
		}
		for j := range a.Rates {
			a.Rates[j].Debt, a.Rates[j].Granted = answer[0], answer[1]
			answer = answer[2:]
		}
	}
	return taken, nil
}

// spanSlots reports whether the asks' counts are in more than one hash slot.
func spanSlots(asks []ratelimit.Ask) bool {
	for i := range asks {
		if slot(&asks[i]) != slot(&asks[0]) {
			return true
		}
	}
	return false
}

// askPerSlot asks one hash slot after the other. If a later slot denies the request, askPerSlot gives back the amounts that
// earlier slots granted. The counts of addresses, which tenants share, come first in a bill.
func (r *Redis) askPerSlot(ctx context.Context, client rueidis.Client, asks []ratelimit.Ask, peek bool) (bool, error) {
	all := true
	for from := 0; from < len(asks); {
		to := from + 1
		for to < len(asks) && slot(&asks[to]) == slot(&asks[from]) {
			to++
		}
		taken, err := r.charge(ctx, client, asks[from:to], peek || !all)
		if err != nil || all && !taken {
			if !peek {
				r.giveBack(client, asks[:from])
			}
			all = false
		}
		if err != nil {
			r.observe(err)
			return false, err
		}
		from = to
	}
	r.observe(nil)
	return all, nil
}

// giveBack undoes a charge, in the background.
func (r *Redis) giveBack(client rueidis.Client, asks []ratelimit.Ask) {
	type part struct {
		kind ratelimit.Kind
		key  string
		args arguments
	}
	var parts []part
	for i := range asks {
		a := &asks[i]
		p := part{kind: a.Kind, key: keyOf(a)}
		switch a.Kind {
		case ratelimit.Rate:
			p.args.int(int64(len(a.Rates)))
			for j := range a.Rates {
				each, _, _, sign := a.Rates[j].Scale()
				p.args.add(sign)
				p.args.int(each * a.Rates[j].Granted)
				a.Rates[j].Granted = 0
			}
		case ratelimit.Quota:
			p.args.int(-a.Granted, 0, a.Keep)
		default:
			p.args.add(a.Slots[:a.Granted]...)
		}
		a.Granted = 0
		parts = append(parts, p)
	}
	if len(parts) == 0 {
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
		defer cancel()
		for _, p := range parts {
			switch p.kind {
			case ratelimit.Rate:
				giveBackScript.Exec(ctx, client, []string{p.key}, p.args)
			case ratelimit.Quota:
				adjustScript.Exec(ctx, client, []string{p.key}, p.args)
			default:
				client.Do(ctx, client.B().Zrem().Key(p.key).Member(p.args...).Build())
			}
		}
	}()
}

// Adjust implements ratelimit.Remote.
func (r *Redis) Adjust(_ context.Context, a *ratelimit.Ask, delta int64) (int64, error) {
	client, ctx, cancel, err := r.within(r.timeout())
	if err != nil {
		return 0, err
	}
	defer cancel()
	var args arguments
	args.int(delta, a.Seed, a.Keep)
	used, err := adjustScript.Exec(ctx, client, []string{keyOf(a)}, args).AsInt64()
	if err != nil {
		r.noteFailedSlot([]ratelimit.Ask{*a})
	}
	r.observe(err)
	return used, err
}

// Reset implements ratelimit.Remote.
func (r *Redis) Reset(ctx context.Context, asks []ratelimit.Ask) error {
	client := r.client.Load()
	if client == nil || r.Unreachable() {
		return fmt.Errorf("%w: nothing was reset: %s", ratelimit.ErrUnavailable, r.health.problem())
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	// All asks are of one subject, so their counts are in one hash slot.
	var args arguments
	keys := make([]string, len(asks))
	for i := range asks {
		a := &asks[i]
		keys[i] = keyOf(a)
		if a.Kind == ratelimit.Quota {
			args.add("q")
			args.int(a.Keep)
			continue
		}
		args.add("r")
		args.int(int64(len(a.Rates)))
		for j := range a.Rates {
			_, _, _, sign := a.Rates[j].Scale()
			args.add(sign)
			args.bool(a.Rates[j].Need > 0)
		}
	}
	if err := resetScript.Exec(ctx, *client, keys, args).Error(); err != nil {
		return fmt.Errorf("%w: resetting: %w", ratelimit.ErrUnavailable, err)
	}
	return nil
}
