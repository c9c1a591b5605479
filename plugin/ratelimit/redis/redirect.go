package redis

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// endpoint is an address of Redis and the connection to it.
type endpoint struct {
	url    string
	option rueidis.ClientOption
	// client is nil until a connection was made.
	client *rueidis.Client
}

// closeDelay is how long a former connection stays open after a change of the address. Calls that got the former connection
// have begun by then, and closing waits for calls in progress.
const closeDelay = time.Second

// ErrRejected means that Redis answered with an error, such as a wrong password or a command that
// the user may not run.
var ErrRejected = errors.New("Redis returned an error")

const rejectedPrefix = "Redis returned an error: "

// isRejection reports whether a server answered with an error that a retry would get again.
func isRejection(err error) bool {
	re, ok := rueidis.IsRedisErr(err)
	if !ok {
		return false
	}
	word, rest, _ := strings.Cut(re.Error(), " ")
	return word == "WRONGPASS" || word == "NOAUTH" || word == "NOPERM" || word == "ERR" && !strings.Contains(rest, "max number of clients")
}

// Redirect switches to another address, with any host, user and password, and sets the requests'
// timeout; 0 is DefaultTimeout. If the new Redis has the same data, all counts and held amounts
// stay valid. Otherwise it begins with what this process knows. The former connection stays open
// until Adopt.
//
// Redirect verifies the new address first. If the new Redis rejects it (ErrRejected), or does not
// answer while the former one does, Redirect returns an error and changes nothing. If neither
// answers, it switches, and connects in the background. It blocks at most until ctx ends.
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
		return fmt.Errorf("%w: %s", ErrRejected, strings.TrimPrefix(explain(err, connectTimeout), rejectedPrefix))
	case !r.Unreachable():
		return fmt.Errorf("%s; the former Redis answers and stays in use", explain(err, connectTimeout))
	default:
		r.log.Warn("Redis answers neither at its previous address nor at the new one: limits follow each plan's on_redis_down, and the gateway retries the new address", "error", explain(err, connectTimeout))
	}
	r.mu.Lock()
	r.previous = append(r.previous, r.detach())
	r.switchTo(to)
	r.mu.Unlock()
	r.setTimeout(timeout)
	return nil
}

// Adopt makes url the address without verifying it, and closes the connections to other addresses
// after closeDelay. It does not block.
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

// detach returns the current endpoint with its connection. r.mu is locked.
func (r *Redis) detach() *endpoint {
	former := r.endpoint
	former.client = r.client.Load()
	return former
}

// switchTo makes to the current endpoint. r.mu is locked.
func (r *Redis) switchTo(to *endpoint) {
	r.endpoint = to
	r.client.Store(to.client)
	if to.client == nil {
		r.trip() // trip makes watch connect.
	}
	// The new server may have another clock.
	r.clock.ahead.Store(0)
	select {
	case r.health.reconnect <- struct{}{}:
	default:
	}
}

// closeLater closes a connection after closeDelay, or when r is closed.
func (r *Redis) closeLater(client rueidis.Client) {
	select {
	case <-time.After(closeDelay):
	case <-r.closed:
	}
	client.Close()
}

// timeout returns how long a request waits at most.
func (r *Redis) timeout() time.Duration { return time.Duration(r.timeoutNanos.Load()) }

func (r *Redis) setTimeout(d time.Duration) {
	if d <= 0 {
		d = DefaultTimeout
	}
	r.timeoutNanos.Store(int64(d))
}

// dial connects and verifies the connection.
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
