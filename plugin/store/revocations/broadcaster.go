// Package revocations carries revocations between the gateways of a cluster while the database is
// unreachable. It uses the same Redis in which the gateways count limits.
//
// Each store has one Redis stream. An entry stays until the revocation is in the database, so a gateway
// that lost its connection to Redis or starts later still reads the entry. Each entry is authenticated
// with a key that is derived from data in the store. A gateway rejects entries of other programs and
// other stores. So an attacker who can write to Redis can only repeat or remove a revocation: no entry
// makes a gateway accept a key. An entry holds ids of keys and tenants and the actor of the revocation,
// but no secret.
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
	// MaxAge is the age at which Redis drops an entry that no gateway retracted. A gateway with a pending
	// revocation publishes it again before that age.
	MaxAge = 24 * time.Hour
	// maxEntries bounds the number of revocations in a Redis stream.
	maxEntries = 100_000
	// readBatch limits the entries that one read of the Redis stream returns.
	readBatch = 500
	// readWait is how long one read of the Redis stream waits for a new entry.
	readWait = time.Second
	// answerTimeout is how long Redis may take to answer, in addition to readWait.
	answerTimeout = 2 * time.Second
	// publishTimeout bounds the publication of one entry, because the request that revokes waits for it.
	publishTimeout = time.Second
	// rereadInterval is how often a gateway reads the whole stream again. Redis may lose entries while the
	// connection stays open, for instance if a Redis Cluster promotes a replica that has not received all
	// entries.
	rereadInterval = 15 * time.Second
)

// Connection provides a client of Redis.
type Connection interface {
	// Client returns the client, or the reason why there is none.
	Client() (rueidis.Client, error)
}

// Broadcaster implements replica.Broadcaster through Redis. New creates a Broadcaster. A Broadcaster is
// safe for concurrent use.
type Broadcaster struct {
	redis       Connection
	log         *slog.Logger
	rereadEvery time.Duration // rereadEvery is how often the whole stream is read again. It is rereadInterval outside tests.

	mu sync.Mutex
	// store is the id of the store that all entries belong to.
	store string
	// entries are the known entries of the stream, by revocation. A revocation usually has one entry. n is
	// the number of all entries.
	entries map[entryKey][]*entry
	n       int
	// retracted are the entries that must be removed from the stream.
	retracted map[*entry]entryKey
	// pass counts how often the whole stream was read.
	pass int64

	published, received, rejected atomic.Int64
}

var _ replica.Broadcaster = (*Broadcaster)(nil)

// entryKey identifies a revocation by its action, keyspace and id, without its time.
type entryKey struct{ action, keyspace, id string }

func entryKeyOf(r management.Revocation) entryKey { return entryKey{r.Action, r.Keyspace, r.ID} }

// entry is a revocation that this gateway published or received.
type entry struct {
	text string
	// decided is the time at which the revocation was decided.
	decided time.Time
	// ids are the ids of the stream's entries with the same text. The value reports whether this gateway
	// received the entry. There are several ids if the revocation was published again.
	ids map[string]bool
	// at is when this gateway published or received the entry. seen is the number of the last read of the
	// whole stream that contained the entry.
	at   time.Time
	seen int64
	// retracted reports whether the entry must be removed from the stream.
	retracted bool
}

// New returns a broadcaster that uses a connection to Redis. The broadcaster does not close the
// connection. A nil log means slog.Default.
func New(c Connection, log *slog.Logger) *Broadcaster {
	if log == nil {
		log = slog.Default()
	}
	b := &Broadcaster{redis: c, log: log, rereadEvery: rereadInterval}
	b.reset(replica.ClusterID{})
	return b
}

// streamKey returns the Redis key of a store's stream. A Redis Cluster keeps the stream on one server,
// because the stream has a single key.
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

// prepare returns the entry that a revocation replaces, or an empty entry if there is none. It returns
// nil if the revocation need not be published, because it was published or received recently.
func (b *Broadcaster) prepare(cluster replica.ClusterID, r management.Revocation, text string) (*entry, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.useStore(cluster)
	e := b.find(entryKeyOf(r), text)
	switch {
	case e == nil && b.n >= maxEntries:
		return nil, fmt.Errorf("%d revocations are waiting to be written to the database; this one is not published", b.n)
	case e == nil:
		return &entry{}, nil
	case !e.retracted && time.Since(e.at) < MaxAge/2:
		return nil, nil
	}
	b.remove(entryKeyOf(r), e)
	delete(b.retracted, e)
	return e, nil
}

// find returns the entry with a text, or nil if there is none. The caller of find or remove holds b.mu.
func (b *Broadcaster) find(k entryKey, text string) *entry {
	for _, e := range b.entries[k] {
		if e.text == text {
			return e
		}
	}
	return nil
}

func (b *Broadcaster) remove(k entryKey, e *entry) {
	i := slices.Index(b.entries[k], e)
	if i < 0 {
		return
	}
	b.n--
	if b.entries[k] = slices.Delete(b.entries[k], i, i+1); len(b.entries[k]) == 0 {
		delete(b.entries, k)
	}
}

// expire drops entries that are older than MaxAge. The clock is that of Redis, whose time the entry id
// holds. expire ignores errors, because the next publication drops old entries too.
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

// useStore drops all entries if they belong to another store. The caller holds b.mu.
func (b *Broadcaster) useStore(cluster replica.ClusterID) {
	if b.store != cluster.Store {
		b.reset(cluster)
	}
}

// reset drops all entries and sets the store. The caller holds b.mu.
func (b *Broadcaster) reset(cluster replica.ClusterID) {
	b.store, b.entries, b.n, b.retracted = cluster.Store, map[entryKey][]*entry{}, 0, map[*entry]entryKey{}
}

// record records that the stream's entry id holds a revocation. received is true if the entry was read
// from the stream, and false if this gateway published it. record returns whether the revocation had
// been received before.
func (b *Broadcaster) record(cluster replica.ClusterID, text string, r management.Revocation, id string, received bool) (before bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.useStore(cluster)
	e := b.find(entryKeyOf(r), text)
	if e == nil {
		e = &entry{text: text, decided: r.At, ids: map[string]bool{}}
		b.entries[entryKeyOf(r)] = append(b.entries[entryKeyOf(r)], e)
		b.n++
	}
	if _, known := e.ids[id]; !known {
		e.at = time.Now()
	}
	e.seen = b.pass
	before = e.ids[id]
	e.ids[id] = before || received
	return before
}

// dropUnseen drops the entries that the last read of the whole stream did not contain. A node on which
// such a revocation is still pending publishes it again.
func (b *Broadcaster) dropUnseen() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for k, list := range b.entries {
		for _, e := range slices.Clone(list) {
			if e.seen < b.pass && !e.retracted {
				b.remove(k, e)
			}
		}
	}
}

// Retract implements replica.Broadcaster. The running Subscribe removes the entries from Redis within
// about a second.
func (b *Broadcaster) Retract(cluster replica.ClusterID, r management.Revocation) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.store != cluster.Store {
		return
	}
	for _, e := range b.entries[entryKeyOf(r)] {
		if !e.decided.After(r.At) {
			e.retracted = true
			b.retracted[e] = entryKeyOf(r)
		}
	}
}

// Subscribe implements replica.Broadcaster.
func (b *Broadcaster) Subscribe(ctx context.Context, cluster replica.ClusterID, f func([]management.Revocation) error) error {
	client, err := b.redis.Client()
	if err != nil {
		return err
	}
	// After the reset, readAll reads the whole stream.
	b.mu.Lock()
	b.reset(cluster)
	b.mu.Unlock()
	warned := false
	reject := func(e rueidis.XRangeEntry, err error) {
		b.rejected.Add(1)
		if !warned {
			warned = true
			b.log.Warn("an entry in the Redis stream of revocations was not written by a gateway of this store and is ignored: check who else can write to that Redis", "key", streamKey(cluster), "entry", e.ID, "error", err)
		}
	}
	for first := true; ; first = false {
		if err := b.readAll(ctx, client, cluster, first, f, reject); err != nil {
			return err
		}
	}
}

// readAll reads the whole stream, and then new entries for the time rereadEvery. It calls f with the
// revocations that were not received before. If first is true, readAll calls f even if the stream holds
// no revocation.
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
			case err != nil && (first || wait > 0): // When the whole stream is read again, its invalid entries are not reported a second time.
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

// read returns up to readBatch entries of the stream after the id from. If wait is above 0, read waits
// that long for a new entry. It also returns when ctx ends.
func (b *Broadcaster) read(ctx context.Context, client rueidis.Client, stream, from string, wait time.Duration) ([]rueidis.XRangeEntry, error) {
	type answer struct {
		entries []rueidis.XRangeEntry
		err     error
	}
	answers := make(chan answer, 1)
	go func() {
		// The read has its own timeout, because a blocking read of Redis does not end with ctx.
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
			err = nil // Redis answered that the stream has no new entry.
		}
		answers <- answer{streams[stream], err}
	}()
	select {
	case a := <-answers:
		if a.err != nil {
			a.err = fmt.Errorf("receiving revocations through Redis: %w", a.err)
		}
		return a.entries, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// removeRetracted removes up to readBatch retracted entries from the stream.
func (b *Broadcaster) removeRetracted(ctx context.Context, client rueidis.Client, cluster replica.ClusterID) error {
	removed := map[*entry]entryKey{}
	var ids []string
	b.mu.Lock()
	for e, k := range b.retracted {
		if len(ids) >= readBatch {
			break
		}
		removed[e] = k
		ids = slices.AppendSeq(ids, maps.Keys(e.ids))
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
	for e, k := range removed {
		delete(b.retracted, e)
		b.remove(k, e)
	}
	return nil
}

// Stats counts a broadcaster's revocations since its start.
type Stats struct {
	// Published and Received count revocations. A broadcaster also receives its own revocations. Rejected
	// counts entries that no gateway of this store wrote.
	Published, Received, Rejected int64
}

// Plus returns the sums of s and o.
func (s Stats) Plus(o Stats) Stats {
	return Stats{s.Published + o.Published, s.Received + o.Received, s.Rejected + o.Rejected}
}

// Stats returns the present counts. It does not block.
func (b *Broadcaster) Stats() Stats {
	return Stats{b.published.Load(), b.received.Load(), b.rejected.Load()}
}
