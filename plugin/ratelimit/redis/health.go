package redis

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

const (
	// tripAfter is after how many late answers in a row the circuit opens. A lost connection opens it
	// at once.
	tripAfter = 3
	// Probes come with growing pauses, each of them jittered by a half, so that nodes do not
	// all come back at one moment.
	probeFirst = 20 * time.Millisecond
	probeMost  = time.Second
	// A node that has not been in touch for nodeKeep counts no more.
	nodeKeep  = 15 * time.Second
	nodeTouch = nodeKeep / 3
)

// health is whether Redis answers: a circuit breaker.
type health struct {
	unreachable atomic.Bool
	timeouts    atomic.Int64
	errors      atomic.Int64
	since       atomic.Int64 // of unreachable, Unix nanoseconds
	last        atomic.Pointer[string]
	tripped     chan struct{}
	// reconnect has an entry when there is another way to be tried.
	reconnect chan struct{}
	// rejected reports that the last answer of Redis was an error, such as a wrong password.
	rejected atomic.Bool
	// lastTag is the hash tag of the counts that could not be asked for last; nil for none.
	lastTag atomic.Pointer[string]
}

// problem returns what went wrong last, "" before anything did.
func (h *health) problem() string {
	if p := h.last.Load(); p != nil {
		return *p
	}
	return "it was not reached yet"
}

// Stats is what can be said of the connection.
type Stats struct {
	// Unreachable reports that Redis does not answer, since then, and Problem why.
	Unreachable bool
	Since       time.Time
	Problem     string
	// Errors counts the calls that failed or came late.
	Errors int64
	// Nodes share the counts.
	Nodes int64
}

// Stats does not block.
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

// observe notes how a call of a request ended.
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

// trip opens the circuit.
func (r *Redis) trip() {
	if r.health.unreachable.Swap(true) {
		return
	}
	r.health.since.Store(time.Now().UnixNano())
	r.log.Warn("Redis does not answer: what each plan's on_redis_down says holds until it does", "error", r.health.problem())
	select {
	case r.health.tripped <- struct{}{}:
	default:
	}
}

// explain says what an error means to an operator.
func explain(err error, timeout time.Duration) string {
	switch re, ok := rueidis.IsRedisErr(err); {
	case ok:
		return "Redis refuses: " + re.Error()
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("no answer within %s", timeout)
	}
	return err.Error()
}

// watch connects, probes while Redis is unreachable, and registers this node from time to time.
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
					r.log.Warn("Redis is not reached: what each plan's on_redis_down says holds until it is", "error", text)
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
			again := r.health.since.Swap(0) != 0
			r.health.unreachable.Store(false)
			r.queue.signal()
			if again {
				r.log.Info("Redis answers again")
			}
		}
	}
}

// jitter returns between half of d and one and a half.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d) }

// probe connects where that was not done, and finds out whether a request would be answered in time.
func (r *Redis) probe(ctx context.Context) error {
	client, err := r.connect(ctx)
	if err != nil {
		return err
	}
	// First with patience, as a connection may have to be made. Then as a request would ask.
	c, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if err := r.verify(c, client); err != nil {
		return err
	}
	c, quick := context.WithTimeout(ctx, r.timeout())
	defer quick()
	return r.probeScript(c, client)
}

// verify finds out whether what requests do may be done by a connection. A replica answers, and takes nothing that is
// written.
func (r *Redis) verify(ctx context.Context, client rueidis.Client) error {
	if err := r.register(ctx, client); err != nil {
		return err
	}
	return r.probeScript(ctx, client)
}

// probeScript asks for nothing, as a request asks. In a Cluster it asks whoever has the counts that
// could not be asked for: others may answer although that one does not, and what a replica does is of no
// importance.
func (r *Redis) probeScript(ctx context.Context, client rueidis.Client) error {
	if client.Mode() != rueidis.ClientModeCluster {
		return chargeScript.Exec(ctx, client, nil, []string{"take", "0"}).Error()
	}
	tag := "nodes"
	if where := r.health.lastTag.Load(); where != nil {
		tag = *where
	}
	err := client.Do(ctx, client.B().Get().Key(KeyPrefix+"{"+tag+"}:probe").Build()).Error()
	if rueidis.IsRedisNil(err) {
		return nil // the key is never written
	}
	return err
}

// connect returns the client, made where there is none yet.
func (r *Redis) connect(ctx context.Context) (rueidis.Client, error) {
	if c := r.client.Load(); c != nil {
		return *c, nil
	}
	r.mu.Lock()
	w := r.endpoint
	r.mu.Unlock()
	client, err := rueidis.NewClient(w.option)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case r.endpoint != w:
		err = errors.New("the address has changed")
	default:
		r.client.Store(&client)
		return client, nil
	}
	client.Close()
	return nil, err
}

// touch registers this node, and reads how many nodes there are.
func (r *Redis) touch(ctx context.Context) {
	client := r.client.Load()
	if client == nil {
		return
	}
	c, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	_ = r.register(c, *client) // said again soon
}

// register does what touch says.
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
