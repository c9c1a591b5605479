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

	// Each runs by its hash, and where the server does not know it, by its text.
	chargeScript   = rueidis.NewLuaScript(chargeText)
	adjustScript   = rueidis.NewLuaScript(adjustText)
	resetScript    = rueidis.NewLuaScript(resetText)
	giveBackScript = rueidis.NewLuaScript(giveBackText)
	renewScript    = rueidis.NewLuaScript(renewText)
	nodesScript    = rueidis.NewLuaScript(nodesText)
)

// errUnreachable means that there is no connection.
var errUnreachable = errors.New("not connected")

// within returns the client and a context that ends with the timeout. It is not
// the request's: a client that disconnects says nothing about Redis.
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
		timeout = max(timeout, peekTimeout) // people wait for it, not requests
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

// charge runs the script on asks of one slot.
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

// noteFailedSlot notes where the asks' counts are, which are in one slot.
func (r *Redis) noteFailedSlot(asks []ratelimit.Ask) {
	if len(asks) > 0 {
		tag := slot(&asks[0])
		r.health.lastTag.Store(&tag)
	}
}

// answerLate is the script's answer where it ran after the deadline of its request.
const answerLate = 2

// errShort means that an answer does not have the form of the script's.
var errShort = errors.New("the answer is not the script's")

// clock is what is known of the server's clock: how far it is ahead of this machine's, in
// microseconds, at most, plus one; 0 for nothing. With it a charge says until when it is wanted: one that a
// stalled server, or network, carries out later would be charged in vain, and a second time here.
type clock struct{ ahead atomic.Int64 }

// deadline returns t by the server's clock, 0 where that is not known.
func (c *clock) deadline(t time.Time) int64 {
	ahead := c.ahead.Load()
	if ahead == 0 {
		return 0
	}
	return t.UnixMicro() + ahead - 1
}

// set notes what the server's clock said after a call was sent.
func (c *clock) set(sent time.Time, server int64) {
	if ahead := server - sent.UnixMicro() + 1; ahead != 0 {
		c.ahead.Store(ahead)
	}
}

// read puts the script's answer into the asks.
func read(answer []int64, asks []ratelimit.Ask) (taken bool, err error) {
	want := 2
	for i := range asks {
		want += 2 * max(len(asks[i].Rates), 1)
	}
	if len(answer) != want {
		return false, fmt.Errorf("%w: %d numbers, not %d", errShort, len(answer), want)
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

// spanSlots reports whether the asks' counts are in more than one slot.
func spanSlots(asks []ratelimit.Ask) bool {
	for i := range asks {
		if slot(&asks[i]) != slot(&asks[0]) {
			return true
		}
	}
	return false
}

// askPerSlot asks one slot after the other, and returns what it took where a later one denies. The address comes
// first in a bill, and with it what tenants share.
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
	// Those of one subject, so of one slot.
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
