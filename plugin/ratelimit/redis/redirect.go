package redis

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// endpoint is one way to Redis.
type endpoint struct {
	url    string
	option rueidis.ClientOption
	// client is the connection; nil where none was made.
	client *rueidis.Client
}

// closeDelay is after how long a former connection is closed: by then, every call that got it has begun,
// and closing waits for calls in progress.
const closeDelay = time.Second

// ErrRejected means that Redis answered, and rejected the user, the password or the commands.
var ErrRejected = errors.New("Redis refuses")

// isRejection reports whether retrying cannot change a server's answer.
func isRejection(err error) bool {
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
// The new address is verified first. If it rejects (ErrRejected), or does not answer while the former
// one does, that is an error and nothing has changed. If neither answers, Redirect uses the new one
// and connects in the background. It blocks until ctx ends at most.
func (r *Redis) Redirect(ctx context.Context, url string, timeout time.Duration) error {
	option, err := parse(url)
	if err != nil {
		return err
	}
	r.mu.Lock()
	same := r.endpoint.url == url
	r.mu.Unlock()
	if same {
		r.setTimeout(timeout)
		return nil
	}
	to := &endpoint{url: url, option: option}
	client, err := r.dial(ctx, option)
	switch {
	case err == nil:
		to.client = &client
	case isRejection(err):
		return fmt.Errorf("%w: %s", ErrRejected, strings.TrimPrefix(explain(err, connectTimeout), "Redis refuses: "))
	case !r.Unreachable():
		return fmt.Errorf("%s; the Redis that was in use until now answers, and stays in use", explain(err, connectTimeout))
	default:
		r.log.Warn("neither the former Redis nor the new one answers: retrying the new one in the background", "error", explain(err, connectTimeout))
	}
	r.mu.Lock()
	r.previous = append(r.previous, r.detach())
	r.switchTo(to)
	r.mu.Unlock()
	r.setTimeout(timeout)
	return nil
}

// Adopt reaches Redis at an address, unchecked, and closes the connections by others once nothing can
// be using them any more. It does not block.
func (r *Redis) Adopt(url string, timeout time.Duration) error {
	option, err := parse(url)
	if err != nil {
		return err
	}
	r.setTimeout(timeout)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.endpoint.url != url {
		to := &endpoint{url: url, option: option}
		for i, f := range r.previous {
			if f.url == url {
				to = f
				r.previous = append(r.previous[:i:i], r.previous[i+1:]...)
				break
			}
		}
		r.previous = append(r.previous, r.detach())
		r.switchTo(to)
	}
	for _, f := range r.previous {
		if f.client != nil {
			go r.closeLater(*f.client)
		}
	}
	r.previous = nil
	return nil
}

// detach returns the way as it is now. r.mu is held.
func (r *Redis) detach() *endpoint {
	w := r.endpoint
	w.client = r.client.Load()
	return w
}

// switchTo goes over to a way. r.mu is held.
func (r *Redis) switchTo(to *endpoint) {
	r.endpoint = to
	r.client.Store(to.client)
	if to.client == nil {
		r.trip() // so that a connection is made
	}
	// Another server may have another clock.
	r.clock.ahead.Store(0)
	select {
	case r.health.reconnect <- struct{}{}:
	default:
	}
}

// closeLater closes a connection once no call can begin to use it.
func (r *Redis) closeLater(client rueidis.Client) {
	select {
	case <-time.After(closeDelay):
	case <-r.closed:
	}
	client.Close()
}

// timeout is how long a request waits at most.
func (r *Redis) timeout() time.Duration { return time.Duration(r.timeoutNanos.Load()) }

func (r *Redis) setTimeout(d time.Duration) {
	if d <= 0 {
		d = DefaultTimeout
	}
	r.timeoutNanos.Store(int64(d))
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
	if err := r.verify(ctx, client); err != nil {
		client.Close()
		return nil, err
	}
	return client, nil
}
