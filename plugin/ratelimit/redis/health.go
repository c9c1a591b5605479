package redis

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

const (
	// tripAfter is the number of consecutive late answers after which Redis counts as unreachable. After a lost connection,
	// Redis counts as unreachable at once.
	tripAfter = 3
	// The pause between two probes of an unreachable Redis grows from probeFirst to probeMost. Half of the pause is random, so
	// that nodes do not all reconnect at the same moment.
	probeFirst = 20 * time.Millisecond
	probeMost  = time.Second
	// A node counts as running for nodeKeep after its last registration in Redis. Nodes register again after each nodeTouch.
	nodeKeep  = 15 * time.Second
	nodeTouch = nodeKeep / 3
)

// health is a circuit breaker: it records whether Redis answers.
type health struct {
	unreachable atomic.Bool
	timeouts    atomic.Int64
	errors      atomic.Int64
	since       atomic.Int64 // when the outage began, in Unix nanoseconds; 0 before the first failure
	last        atomic.Pointer[string]
	tripped     chan struct{}
	// reconnect receives a value when the endpoint has changed, so that watch connects at once.
	reconnect chan struct{}
	// rejected reports that Redis answered the last probe with an error, such as a wrong password.
	rejected atomic.Bool
	// lastTag is the hash tag of the counts of the last failed ask; nil for none.
	lastTag atomic.Pointer[string]
}

// problem returns the last error, as a text for operators.
func (h *health) problem() string {
	if p := h.last.Load(); p != nil {
		return *p
	}
	return "Redis has not been reached yet"
}

// Stats is the state of the connection.
type Stats struct {
	// Unreachable reports whether Redis does not answer. Since and Problem are set only if Unreachable is true.
	Unreachable bool
	Since       time.Time
	Problem     string
	// Errors counts the calls that failed or were answered late.
	Errors int64
	// Nodes is the number of processes that share the counts.
	Nodes int64
}

// Stats returns the state of the connection. It does not block.
func (r *Redis) Stats() Stats {
	s := Stats{Unreachable: r.Unreachable(), Errors: r.health.errors.Load(), Nodes: r.Nodes()}
	if s.Unreachable {
		s.Problem = r.health.problem()
		if at := r.health.since.Load(); at != 0 {
			s.Since = time.Unix(0, at)
		}
	}
	return s
}

// observe records the result of a request's call.
func (r *Redis) observe(err error) {
	h := &r.health
	if err == nil {
		if h.timeouts.Load() != 0 {
			h.timeouts.Store(0)
		}
		return
	}
	h.errors.Add(1)
	text := explain(err, r.timeout())
	h.last.Store(&text)
	if errors.Is(err, context.DeadlineExceeded) && h.timeouts.Add(1) < tripAfter {
		return
	}
	r.trip()
}

// trip opens the circuit: Unreachable returns true until a probe succeeds.
func (r *Redis) trip() {
	if r.health.unreachable.Swap(true) {
		return
	}
	r.health.since.Store(time.Now().UnixNano())
	r.log.Warn("Redis does not answer: limits follow each plan's on_redis_down until it does", "error", r.health.problem())
	select {
	case r.health.tripped <- struct{}{}:
	default:
	}
}

// remedies are what to do about errors of Redis, by their first word.
var remedies = map[string]string{
	"OOM":        "; raise maxmemory, or choose a maxmemory-policy that evicts other keys",
	"READONLY":   "; the address must lead to the master, not to a replica",
	"NOREPLICAS": "; start the replicas, or lower min-replicas-to-write",
	"MISCONF":    "; free the disk of the Redis server, which can't save",
	"LOADING":    "; wait until Redis has loaded its data",
	"BUSY":       "; end the script with SCRIPT KILL",
	"MASTERDOWN": "; the address must lead to the master, not to a replica",
	"NOPERM":     "; the user of the address needs the rights in the manual, \"Limits in Redis\"",
}

// explain returns an error as a text for operators.
func explain(err error, timeout time.Duration) string {
	switch re, ok := rueidis.IsRedisErr(err); {
	case ok:
		word, _, _ := strings.Cut(re.Error(), " ")
		return rejectedPrefix + re.Error() + remedies[word]
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("no answer within %s", timeout)
	}
	return err.Error()
}

// watch registers this node at regular intervals. While Redis is unreachable, watch connects again and probes it.
func (r *Redis) watch(ctx context.Context) {
	for ctx.Err() == nil {
		if !r.Unreachable() {
			r.touch(ctx)
			select {
			case <-time.After(jitter(nodeTouch)):
			case <-r.health.tripped:
			case <-ctx.Done():
			}
			continue
		}
		for pause := probeFirst; r.Unreachable() && ctx.Err() == nil; pause = min(2*pause, probeMost) {
			if err := r.probe(ctx); err != nil {
				text := explain(err, r.timeout())
				if r.health.since.CompareAndSwap(0, time.Now().UnixNano()) {
					r.log.Warn("Redis cannot be reached: limits follow each plan's on_redis_down until it answers", "error", text)
				}
				r.health.last.Store(&text)
				r.health.rejected.Store(isRejection(err))
				select {
				case <-time.After(jitter(pause)):
				case <-r.health.reconnect:
				case <-ctx.Done():
				}
				continue
			}
			r.health.timeouts.Store(0)
			r.health.rejected.Store(false)
			wasUnreachable := r.health.since.Swap(0) != 0
			r.health.unreachable.Store(false)
			r.queue.signal()
			if wasUnreachable {
				r.log.Info("Redis answers again: limits are counted in Redis")
			}
		}
	}
}

// jitter returns a random duration between d/2 and 3d/2.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d) }

// probe connects if there is no connection, and checks whether a request would be answered in
// time.
func (r *Redis) probe(ctx context.Context) error {
	client, err := r.connect(ctx)
	if err != nil {
		return err
	}
	// The first call has a long timeout, because it may have to connect. The second call has the timeout of a request.
	c, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if err := r.verify(c, client); err != nil {
		return err
	}
	c, quick := context.WithTimeout(ctx, r.timeout())
	defer quick()
	return r.probeScript(c, client)
}

// verify checks that a connection can run every command that requests need. For example, a replica of Redis answers reads
// but rejects writes.
func (r *Redis) verify(ctx context.Context, client rueidis.Client) error {
	if err := r.register(ctx, client); err != nil {
		return err
	}
	return r.probeScript(ctx, client)
}

// probeScript runs charge.lua for one unit of a count that nothing else uses and that expires after a second. So the probe
// fails for every reason for which requests fail: a server without memory, one that may not write without replicas or after a
// failed save, a replica, a script that runs too long. In a Redis Cluster the count is in the hash slot of the last failed
// ask, because other servers may work while the server of that slot does not.
func (r *Redis) probeScript(ctx context.Context, client rueidis.Client) error {
	tag := "nodes"
	if last := r.health.lastTag.Load(); last != nil && client.Mode() == rueidis.ClientModeCluster {
		tag = *last
	}
	args := arguments{"take", "0"}
	args.ask(&ratelimit.Ask{Kind: ratelimit.Quota, Need: 1, Limit: ratelimit.MaxLimit, Keep: time.Second.Milliseconds()})
	return chargeScript.Exec(ctx, client, []string{KeyPrefix + "{" + tag + "}:probe"}, args).Error()
}

// connect returns the client, and connects if there is none.
func (r *Redis) connect(ctx context.Context) (rueidis.Client, error) {
	if c := r.client.Load(); c != nil {
		return *c, nil
	}
	r.mu.Lock()
	endpoint := r.endpoint
	r.mu.Unlock()
	client, err := rueidis.NewClient(endpoint.option)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case r.endpoint != endpoint:
		err = errors.New("the address has changed")
	default:
		r.client.Store(&client)
		return client, nil
	}
	client.Close()
	return nil, err
}

// touch registers this node in Redis, and remembers the number of registered nodes.
func (r *Redis) touch(ctx context.Context) {
	client := r.client.Load()
	if client == nil {
		return
	}
	c, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	_ = r.register(c, *client) // The next touch retries.
}

// register registers this node over the given client, and returns the client's error.
func (r *Redis) register(ctx context.Context, client rueidis.Client) error {
	var args arguments
	args.add(r.node)
	args.int(nodeKeep.Milliseconds())
	n, err := nodesScript.Exec(ctx, client, []string{nodesKey}, args).AsInt64()
	if err == nil {
		r.nodes.Store(max(n, 1))
	}
	return err
}
