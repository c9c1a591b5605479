package redis

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// way is one way to Redis.
type way struct {
	url    string
	option rueidis.ClientOption
	// client is the connection; nil where none was made.
	client *rueidis.Client
}

// closeAfter is after how long a former connection is closed: nobody takes that long from having got hold of it to
// using it, and what is under way then is waited for.
const closeAfter = time.Second

// ErrRefused says that a Redis answers, and does not take the user, the password, or what is to be done.
var ErrRefused = errors.New("Redis refuses")

// refused says that a server's answer is no matter of time.
func refused(err error) bool {
	re, ok := rueidis.IsRedisErr(err)
	if !ok {
		return false
	}
	word, rest, _ := strings.Cut(re.Error(), " ")
	return word == "WRONGPASS" || word == "NOAUTH" || word == "NOPERM" || word == "ERR" && !strings.Contains(rest, "max number of clients")
}

// Redirect reaches Redis at another address from now on: with another password, as another user, at another
// host; and has requests wait for timeout at most, 0 being DefaultTimeout. All that is counted and held goes on
// where it is the same Redis, or has what the former one had; another begins with what is known here. The
// former connection is kept until Settle.
//
// The new address is tried first. Where it refuses, which is ErrRefused, or does not answer while the former one does, that
// is an error, and nothing has changed. Where neither answers, the new one is tried on. It blocks until ctx ends at most.
func (r *Redis) Redirect(ctx context.Context, url string, timeout time.Duration) error {
	option, err := parse(url)
	if err != nil {
		return err
	}
	r.mu.Lock()
	same := r.way.url == url
	r.mu.Unlock()
	if same {
		r.setTimeout(timeout)
		return nil
	}
	to := &way{url: url, option: option}
	client, err := r.dial(ctx, option)
	switch {
	case err == nil:
		to.client = &client
	case refused(err):
		return fmt.Errorf("%w: %s", ErrRefused, strings.TrimPrefix(explain(err, connectTimeout), "Redis refuses: "))
	case !r.Away():
		return fmt.Errorf("%s; the Redis that was in use until now answers, and stays in use", explain(err, connectTimeout))
	default:
		r.log.Warn("neither the former Redis nor the new one answers: the new one is tried on", "error", explain(err, connectTimeout))
	}
	r.mu.Lock()
	r.former = append(r.former, r.leave())
	r.take(to)
	r.mu.Unlock()
	r.setTimeout(timeout)
	return nil
}

// Settle reaches Redis at an address, unchecked, and closes the connections by others once nothing can
// be using them any more. It does not block.
func (r *Redis) Settle(url string, timeout time.Duration) error {
	option, err := parse(url)
	if err != nil {
		return err
	}
	r.setTimeout(timeout)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.way.url != url {
		to := &way{url: url, option: option}
		for i, f := range r.former {
			if f.url == url {
				to = f
				r.former = append(r.former[:i:i], r.former[i+1:]...)
				break
			}
		}
		r.former = append(r.former, r.leave())
		r.take(to)
	}
	for _, f := range r.former {
		if f.client != nil {
			go r.closeLater(*f.client)
		}
	}
	r.former = nil
	return nil
}

// leave returns the way as it is now. r.mu is held.
func (r *Redis) leave() *way {
	w := r.way
	w.client = r.client.Load()
	return w
}

// take goes over to a way. r.mu is held.
func (r *Redis) take(to *way) {
	r.way = to
	r.client.Store(to.client)
	if to.client == nil {
		r.trip() // so that a connection is made
	}
	// Another server may have another clock.
	r.clock.ahead.Store(0)
	select {
	case r.health.again <- struct{}{}:
	default:
	}
}

// closeLater closes a connection after whoever may have begun to use it has ended.
func (r *Redis) closeLater(client rueidis.Client) {
	select {
	case <-time.After(closeAfter):
	case <-r.closed:
	}
	client.Close()
}

// timeout is how long a request waits at most.
func (r *Redis) timeout() time.Duration { return time.Duration(r.patience.Load()) }

func (r *Redis) setTimeout(d time.Duration) {
	if d <= 0 {
		d = DefaultTimeout
	}
	r.patience.Store(int64(d))
}

// dial makes a connection, and finds out whether what requests do may be done by it.
func (r *Redis) dial(ctx context.Context, option rueidis.ClientOption) (rueidis.Client, error) {
	type result struct {
		client rueidis.Client
		err    error
	}
	made := make(chan result, 1)
	go func() {
		client, err := rueidis.NewClient(option)
		made <- result{client, err}
	}()
	var client rueidis.Client
	select {
	case m := <-made:
		if m.err != nil {
			return nil, m.err
		}
		client = m.client
	case <-ctx.Done():
		go func() {
			if m := <-made; m.err == nil {
				m.client.Close()
			}
		}()
		return nil, ctx.Err()
	}
	if err := r.try(ctx, client); err != nil {
		client.Close()
		return nil, err
	}
	return client, nil
}
