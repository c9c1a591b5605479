// Package revocations carries revocations between the gateways of a store while the
// database is unreachable, through the Redis that counts their limits.
//
// Each store has one Redis stream. It holds each revocation until the database has it: a gateway that was cut off
// from Redis, or starts later, reads all that are left. Each message is authenticated with a key that is made of
// data in the store, so messages of other programs, and of another store, are rejected. A writer to Redis
// can therefore at most repeat a revocation, or remove it: no message makes a gateway accept a key. A message
// has the ids of keys and tenants, and who revoked them. It has no secret.
package revocations

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/ratelimit/redis"
	"github.com/keygate-dev/keygate/plugin/store/replica"
)

const (
	// MaxAge is the age at which an entry is dropped that was not retracted. A revocation that still
	// holds is published again before.
	MaxAge = 24 * time.Hour
	// maxEntries bounds the number of published revocations.
	maxEntries = 100_000
	// readBatch bounds one read.
	readBatch = 500
	// readWait is how long one read waits for an entry.
	readWait = time.Second
	// answerTimeout is how long Redis may take beyond that.
	answerTimeout = 2 * time.Second
	// publishTimeout bounds publishing one entry: the revocation's request waits for it.
	publishTimeout = time.Second
	// rereadInterval is how often the whole stream is read again. Redis may lose entries without the connection
	// being lost: for instance when a replica of a Cluster that has not received all of them is promoted.
	rereadInterval = 15 * time.Second
)

// Connection is a connection to Redis.
type Connection interface {
	// Client returns it, or why there is none.
	Client() (rueidis.Client, error)
}

// Broadcaster is a replica.Broadcaster. Made by New; safe for concurrent use.
type Broadcaster struct {
	redis       Connection
	log         *slog.Logger
	rereadEvery time.Duration // rereadInterval, but for tests

	mu sync.Mutex
	// store is the id of the store of all entries.
	store string
	// entries by what they revoke: mostly one each. There are n in all.
	entries map[entryKey][]*entry
	n       int
	// retracted are the entries that are to be removed from the stream.
	retracted map[*entry]entryKey
	// pass counts the reads of the whole stream.
	pass int64

	published, received, rejected atomic.Int64
}

var _ replica.Broadcaster = (*Broadcaster)(nil)

// entryKey identifies a revocation but for its time.
type entryKey struct{ action, keyspace, id string }

func entryKeyOf(r management.Revocation) entryKey { return entryKey{r.Action, r.Keyspace, r.ID} }

// entry is a published or received revocation.
type entry struct {
	text string
	// decided is when it was revoked.
	decided time.Time
	// ids are the stream's entries with it, and whether they were received. They are several where it
	// was published again.
	ids map[string]bool
	// at is when it was published or received, and seen the pass in which it last was in the stream.
	at   time.Time
	seen int64
	// retracted reports that the stream's entries are to be removed.
	retracted bool
}

// New returns a broadcaster that uses a connection, which it does not close.
func New(c Connection, log *slog.Logger) *Broadcaster {
	if log == nil {
		log = slog.Default()
	}
	b := &Broadcaster{redis: c, log: log, rereadEvery: rereadInterval}
	b.reset(replica.ClusterID{})
	return b
}

// streamKey returns the key of a store's stream. It is one key, so that a Cluster keeps it on one server.
func streamKey(k replica.ClusterID) string { return redis.KeyPrefix + "{refused:" + k.Store + "}" }

// Publish implements replica.Broadcaster.
func (b *Broadcaster) Publish(ctx context.Context, cluster replica.ClusterID, r management.Revocation) error {
	text, err := encode(r)
	if err != nil {
		return err
	}
	old, err := b.prepare(cluster, r, text)
	if err != nil || old == nil {
		return err
	}
	client, err := b.redis.Client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	stream := streamKey(cluster)
	id, err := client.Do(ctx, client.B().Xadd().Key(stream).Id("*").
		FieldValue().FieldValue(textField, text).FieldValue(sealField, seal(cluster, text)).Build()).ToString()
	if err != nil {
		return fmt.Errorf("publishing a revocation through Redis: %w", err)
	}
	b.published.Add(1)
	b.record(cluster, text, r, id, false)
	b.expire(ctx, client, stream, id)
	if len(old.ids) > 0 {
		_ = client.Do(ctx, client.B().Xdel().Key(stream).Id(slices.Collect(maps.Keys(old.ids))...).Build()).Error()
	}
	return nil
}

// prepare returns the entry that a revocation replaces, an empty one for none; nil where it
// need not be published.
func (b *Broadcaster) prepare(cluster replica.ClusterID, r management.Revocation, text string) (*entry, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.useStore(cluster)
	w := b.find(entryKeyOf(r), text)
	switch {
	case w == nil && b.n >= maxEntries:
		return nil, fmt.Errorf("%d revocations wait to be written to the database already, and no more are published", b.n)
	case w == nil:
		return &entry{}, nil
	case !w.retracted && time.Since(w.at) < MaxAge/2:
		return nil, nil
	}
	b.remove(entryKeyOf(r), w)
	delete(b.retracted, w)
	return w, nil
}

// find returns an entry, nil where there is none. b is locked, as for remove.
func (b *Broadcaster) find(d entryKey, text string) *entry {
	for _, w := range b.entries[d] {
		if w.text == text {
			return w
		}
	}
	return nil
}

func (b *Broadcaster) remove(d entryKey, w *entry) {
	i := slices.Index(b.entries[d], w)
	if i < 0 {
		return
	}
	b.n--
	if b.entries[d] = slices.Delete(b.entries[d], i, i+1); len(b.entries[d]) == 0 {
		delete(b.entries, d)
	}
}

// expire bounds the age of entries by Redis's clock, which id holds. The next publication repairs
// a failure.
func (b *Broadcaster) expire(ctx context.Context, client rueidis.Client, stream, id string) {
	ms, _, _ := strings.Cut(id, "-")
	now, err := strconv.ParseInt(ms, 10, 64)
	if err != nil {
		return
	}
	client.DoMulti(ctx,
		client.B().Pexpire().Key(stream).Milliseconds(MaxAge.Milliseconds()).Build(),
		client.B().Xtrim().Key(stream).Minid().Threshold(strconv.FormatInt(max(now-MaxAge.Milliseconds(), 0), 10)).Build())
}

// useStore forgets the entries of another store. b is locked.
func (b *Broadcaster) useStore(cluster replica.ClusterID) {
	if b.store != cluster.Store {
		b.reset(cluster)
	}
}

// reset forgets all entries. b is locked.
func (b *Broadcaster) reset(cluster replica.ClusterID) {
	b.store, b.entries, b.n, b.retracted = cluster.Store, map[entryKey][]*entry{}, 0, map[*entry]entryKey{}
}

// record records that a stream's entry has a revocation, and whether it was received. It returns whether it had been before.
func (b *Broadcaster) record(cluster replica.ClusterID, text string, r management.Revocation, id string, heard bool) (before bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.useStore(cluster)
	w := b.find(entryKeyOf(r), text)
	if w == nil {
		w = &entry{text: text, decided: r.At, ids: map[string]bool{}}
		b.entries[entryKeyOf(r)] = append(b.entries[entryKeyOf(r)], w)
		b.n++
	}
	if _, known := w.ids[id]; !known {
		w.at = time.Now()
	}
	w.seen = b.pass
	before = w.ids[id]
	w.ids[id] = before || heard
	return before
}

// dropUnseen forgets the entries that were not in Redis when the whole stream was read. A node with such a
// pending revocation publishes it again.
func (b *Broadcaster) dropUnseen() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for d, list := range b.entries {
		for _, w := range slices.Clone(list) {
			if w.seen < b.pass && !w.retracted {
				b.remove(d, w)
			}
		}
	}
}

// Retract implements replica.Broadcaster. Subscribe removes the entries, within a second or so.
func (b *Broadcaster) Retract(cluster replica.ClusterID, r management.Revocation) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.store != cluster.Store {
		return
	}
	for _, w := range b.entries[entryKeyOf(r)] {
		if !w.decided.After(r.At) {
			w.retracted = true
			b.retracted[w] = entryKeyOf(r)
		}
	}
}

// Subscribe implements replica.Broadcaster.
func (b *Broadcaster) Subscribe(ctx context.Context, cluster replica.ClusterID, f func([]management.Revocation) error) error {
	client, err := b.redis.Client()
	if err != nil {
		return err
	}
	// The whole stream is read next.
	b.mu.Lock()
	b.reset(cluster)
	b.mu.Unlock()
	warned := false
	reject := func(e rueidis.XRangeEntry, err error) {
		b.rejected.Add(1)
		if !warned {
			warned = true
			b.log.Warn("an entry in Redis is no message of a gateway of this store and is ignored: check who else can write there", "key", streamKey(cluster), "entry", e.ID, "error", err)
		}
	}
	for first := true; ; first = false {
		if err := b.readAll(ctx, client, cluster, first, f, reject); err != nil {
			return err
		}
	}
}

// readAll calls f with the revocations not received before: all in the stream, then for a while
// the new ones. first has it call f also where there is none.
func (b *Broadcaster) readAll(ctx context.Context, client rueidis.Client, cluster replica.ClusterID, first bool, f func([]management.Revocation) error, reject func(rueidis.XRangeEntry, error)) error {
	b.mu.Lock()
	b.pass++
	b.mu.Unlock()
	from, wait := "0-0", time.Duration(0)
	for began := time.Now(); wait == 0 || time.Since(began) < b.rereadEvery; {
		entries, err := b.read(ctx, client, streamKey(cluster), from, wait)
		if err != nil {
			return err
		}
		var list []management.Revocation
		for _, e := range entries {
			from = e.ID
			r, err := openMessage(cluster, e.FieldValues)
			switch {
			case err == nil && !b.record(cluster, e.FieldValues[textField], r, e.ID, true):
				b.received.Add(1)
				list = append(list, r)
			case err != nil && (first || wait > 0): // or it was seen before
				reject(e, err)
			}
		}
		if len(list) > 0 || first && wait == 0 {
			if err := f(list); err != nil {
				return err
			}
		}
		if wait == 0 && len(entries) < readBatch {
			b.dropUnseen()
			wait = min(readWait, b.rereadEvery)
		}
		if err := b.removeRetracted(ctx, client, cluster); err != nil {
			return err
		}
	}
	return nil
}

// read returns the entries after from. It waits for one, and returns when ctx ends.
func (b *Broadcaster) read(ctx context.Context, client rueidis.Client, stream, from string, wait time.Duration) ([]rueidis.XRangeEntry, error) {
	type answer struct {
		entries []rueidis.XRangeEntry
		err     error
	}
	come := make(chan answer, 1)
	go func() {
		// With a timeout of its own, since a waiting read does not end with ctx.
		short, cancel := context.WithTimeout(context.Background(), wait+answerTimeout)
		defer cancel()
		read := client.B().Xread().Count(readBatch)
		var cmd rueidis.Completed
		if wait > 0 {
			cmd = read.Block(wait.Milliseconds()).Streams().Key(stream).Id(from).Build()
		} else {
			cmd = read.Streams().Key(stream).Id(from).Build()
		}
		streams, err := client.Do(short, cmd).AsXRead()
		if rueidis.IsRedisNil(err) {
			err = nil // there is none
		}
		come <- answer{streams[stream], err}
	}()
	select {
	case a := <-come:
		if a.err != nil {
			a.err = fmt.Errorf("receiving revocations through Redis: %w", a.err)
		}
		return a.entries, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// removeRetracted removes the retracted entries from the stream.
func (b *Broadcaster) removeRetracted(ctx context.Context, client rueidis.Client, cluster replica.ClusterID) error {
	gone := map[*entry]entryKey{}
	var ids []string
	b.mu.Lock()
	for w, d := range b.retracted {
		if len(ids) >= readBatch {
			break
		}
		gone[w] = d
		ids = slices.AppendSeq(ids, maps.Keys(w.ids))
	}
	b.mu.Unlock()
	if len(ids) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	if err := client.Do(ctx, client.B().Xdel().Key(streamKey(cluster)).Id(ids...).Build()).Error(); err != nil {
		return fmt.Errorf("retracting revocations through Redis: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for w, d := range gone {
		delete(b.retracted, w)
		b.remove(d, w)
	}
	return nil
}

// Stats counts a broadcaster's messages.
type Stats struct {
	// Published and Received count revocations, its own among those received; Rejected counts entries that are
	// no message of this store.
	Published, Received, Rejected int64
}

// Plus returns the sums of both.
func (s Stats) Plus(o Stats) Stats {
	return Stats{s.Published + o.Published, s.Received + o.Received, s.Rejected + o.Rejected}
}

// Stats does not block.
func (b *Broadcaster) Stats() Stats {
	return Stats{b.published.Load(), b.received.Load(), b.rejected.Load()}
}
