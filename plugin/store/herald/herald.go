// Package herald tells gateways that share a store what one of them refuses while the
// database is away, through the Redis that counts their limits.
//
// What is told is kept in one stream of Redis for each store, until the database has it: a gateway that was cut off
// from Redis, or starts later, reads all that is still there. Each word is sealed by a key that is made of
// what the store alone holds, so that words of others, and of another store, are not taken. Whoever can write to Redis
// can so at most repeat what was told, or remove it: a key can never be made to be accepted. What is told
// names keys and tenants by their ids, and who refused them; it holds no secret.
package herald

import (
	"context"
	"errors"
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
	// Keep is for how long a word is kept at most, where nobody withdraws it; while it holds, it
	// is told anew before.
	Keep = 24 * time.Hour
	// mostWords bounds how many refusals are told at a time.
	mostWords = 100_000
	// readAtOnce bounds one read.
	readAtOnce = 500
	// readWait is how long one read waits for a word.
	readWait = time.Second
	// answerTimeout is how long Redis may take beyond that.
	answerTimeout = 2 * time.Second
	// tellTimeout bounds telling one word: who revokes a key waits for it.
	tellTimeout = time.Second
	// readAnew is how often all is read again. Redis may lose what it took without the connection
	// being lost: as a Cluster's server makes way for one that it had not told everything.
	readAnew = 15 * time.Second
)

// Connection is a connection to Redis.
type Connection interface {
	// Client returns it, or why there is none.
	Client() (rueidis.Client, error)
}

// Herald is a replica.Herald. Made by New; safe for concurrent use.
type Herald struct {
	redis Connection
	log   *slog.Logger
	anew  time.Duration // readAnew, but for tests

	mu sync.Mutex
	// store is whose words there are.
	store string
	// words by what they say was done to what: mostly one each. There are n in all.
	words map[deed][]*word
	n     int
	// withdrawn are those whose entries are to be removed.
	withdrawn map[*word]deed
	// reading counts how often reading all began.
	reading int64

	told, heard, rejected atomic.Int64
}

var _ replica.Herald = (*Herald)(nil)

// deed is what was done to what.
type deed struct{ action, keyspace, id string }

func deedOf(r management.Revocation) deed { return deed{r.Action, r.Keyspace, r.ID} }

// word is what is told of one refusal.
type word struct {
	text string
	// decided is when it was refused.
	decided time.Time
	// ids are the entries of the stream that hold it, and whether they were heard; more than one where it
	// was told twice.
	ids map[string]bool
	// at is when it was told or heard, and seen in which reading.
	at   time.Time
	seen int64
	// withdrawn says that the entries are to be removed.
	withdrawn bool
}

// New returns a herald that uses a connection, which it does not close.
func New(c Connection, log *slog.Logger) *Herald {
	if log == nil {
		log = slog.Default()
	}
	h := &Herald{redis: c, log: log, anew: readAnew}
	h.begin(replica.Kin{})
	return h
}

// streamOf returns the key of a store's stream. It is one key, so that a Cluster keeps it in one place.
func streamOf(k replica.Kin) string { return redis.KeyPrefix + "{refused:" + k.Store + "}" }

// Tell implements replica.Herald.
func (h *Herald) Tell(ctx context.Context, kin replica.Kin, r management.Revocation) error {
	text, err := encode(r)
	if err != nil {
		return err
	}
	old, err := h.toTell(kin, r, text)
	if err != nil || old == nil {
		return err
	}
	client, err := h.redis.Client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, tellTimeout)
	defer cancel()
	stream := streamOf(kin)
	id, err := client.Do(ctx, client.B().Xadd().Key(stream).Id("*").
		FieldValue().FieldValue(textField, text).FieldValue(sealField, seal(kin, text)).Build()).ToString()
	if err != nil {
		return fmt.Errorf("telling it through Redis: %w", err)
	}
	h.told.Add(1)
	h.note(kin, text, r, id, false)
	h.bound(ctx, client, stream, id)
	if len(old.ids) > 0 {
		_ = client.Do(ctx, client.B().Xdel().Key(stream).Id(slices.Collect(maps.Keys(old.ids))...).Build()).Error()
	}
	return nil
}

// toTell returns the entries that a word which is to be told takes the place of; nil where it
// need not be told.
func (h *Herald) toTell(kin replica.Kin, r management.Revocation, text string) (*word, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.belong(kin)
	w := h.find(deedOf(r), text)
	switch {
	case w == nil && h.n >= mostWords:
		return nil, fmt.Errorf("%d refusals wait to be written to the database already, and no more are told", h.n)
	case w == nil:
		return &word{}, nil
	case !w.withdrawn && time.Since(w.at) < Keep/2:
		return nil, nil
	}
	h.remove(deedOf(r), w)
	delete(h.withdrawn, w)
	return w, nil
}

// find returns a word, nil where there is none. h is locked, as for remove.
func (h *Herald) find(d deed, text string) *word {
	for _, w := range h.words[d] {
		if w.text == text {
			return w
		}
	}
	return nil
}

func (h *Herald) remove(d deed, w *word) {
	i := slices.Index(h.words[d], w)
	if i < 0 {
		return
	}
	h.n--
	if h.words[d] = slices.Delete(h.words[d], i, i+1); len(h.words[d]) == 0 {
		delete(h.words, d)
	}
}

// bound bounds how long words are kept, by Redis's clock, which id tells. A failure is made good
// by who tells next.
func (h *Herald) bound(ctx context.Context, client rueidis.Client, stream, id string) {
	ms, _, _ := strings.Cut(id, "-")
	now, err := strconv.ParseInt(ms, 10, 64)
	if err != nil {
		return
	}
	client.DoMulti(ctx,
		client.B().Pexpire().Key(stream).Milliseconds(Keep.Milliseconds()).Build(),
		client.B().Xtrim().Key(stream).Minid().Threshold(strconv.FormatInt(max(now-Keep.Milliseconds(), 0), 10)).Build())
}

// belong forgets the words of another store. h is locked.
func (h *Herald) belong(kin replica.Kin) {
	if h.store != kin.Store {
		h.begin(kin)
	}
}

// begin forgets all words. h is locked.
func (h *Herald) begin(kin replica.Kin) {
	h.store, h.words, h.n, h.withdrawn = kin.Store, map[deed][]*word{}, 0, map[*word]deed{}
}

// note notes where a word stands, and whether it was heard there; it returns whether it was before.
func (h *Herald) note(kin replica.Kin, text string, r management.Revocation, id string, heard bool) (before bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.belong(kin)
	w := h.find(deedOf(r), text)
	if w == nil {
		w = &word{text: text, decided: r.At, ids: map[string]bool{}}
		h.words[deedOf(r)] = append(h.words[deedOf(r)], w)
		h.n++
	}
	if _, known := w.ids[id]; !known {
		w.at = time.Now()
	}
	w.seen = h.reading
	before = w.ids[id]
	w.ids[id] = before || heard
	return before
}

// forget forgets the words that were not in Redis when all was read: who still holds to one
// tells it again.
func (h *Herald) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for d, list := range h.words {
		for _, w := range slices.Clone(list) {
			if w.seen < h.reading && !w.withdrawn {
				h.remove(d, w)
			}
		}
	}
}

// Withdraw implements replica.Herald. The words are removed by Hear, within a second or so.
func (h *Herald) Withdraw(kin replica.Kin, r management.Revocation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.store != kin.Store {
		return
	}
	for _, w := range h.words[deedOf(r)] {
		if !w.decided.After(r.At) {
			w.withdrawn = true
			h.withdrawn[w] = deedOf(r)
		}
	}
}

// Hear implements replica.Herald.
func (h *Herald) Hear(ctx context.Context, kin replica.Kin, f func([]management.Revocation) error) error {
	client, err := h.redis.Client()
	if err != nil {
		return err
	}
	// What is there is about to be read.
	h.mu.Lock()
	h.begin(kin)
	h.mu.Unlock()
	warned := false
	reject := func(e rueidis.XRangeEntry, err error) {
		h.rejected.Add(1)
		if !warned {
			warned = true
			h.log.Warn("something in Redis is no word of a gateway of this store, and is ignored: see who else can write there", "key", streamOf(kin), "entry", e.ID, "error", err)
		}
	}
	for first := true; ; first = false {
		if err := h.readAll(ctx, client, kin, first, f, reject); err != nil {
			return err
		}
	}
}

// readAll calls f with what is told and was not heard before, all there is and then for a while
// what comes. first says that f is to be called where there is nothing.
func (h *Herald) readAll(ctx context.Context, client rueidis.Client, kin replica.Kin, first bool, f func([]management.Revocation) error, reject func(rueidis.XRangeEntry, error)) error {
	h.mu.Lock()
	h.reading++
	h.mu.Unlock()
	from, wait := "0-0", time.Duration(0)
	for began := time.Now(); wait == 0 || time.Since(began) < h.anew; {
		entries, err := h.read(ctx, client, streamOf(kin), from, wait)
		if err != nil {
			return err
		}
		var list []management.Revocation
		for _, e := range entries {
			from = e.ID
			r, err := open(kin, e.FieldValues)
			switch {
			case err == nil && !h.note(kin, e.FieldValues[textField], r, e.ID, true):
				h.heard.Add(1)
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
		if wait == 0 && len(entries) < readAtOnce {
			h.forget()
			wait = min(readWait, h.anew)
		}
		if err := h.sweep(ctx, client, kin); err != nil {
			return err
		}
	}
	return nil
}

// read returns the entries after from. It waits for one, and returns when ctx ends.
func (h *Herald) read(ctx context.Context, client rueidis.Client, stream, from string, wait time.Duration) ([]rueidis.XRangeEntry, error) {
	type answer struct {
		entries []rueidis.XRangeEntry
		err     error
	}
	come := make(chan answer, 1)
	go func() {
		// By its own time, since a read that waits does not hear that ctx ends.
		short, cancel := context.WithTimeout(context.Background(), wait+answerTimeout)
		defer cancel()
		read := client.B().Xread().Count(readAtOnce)
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
			a.err = fmt.Errorf("hearing through Redis: %w", a.err)
		}
		return a.entries, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// sweep removes what was withdrawn.
func (h *Herald) sweep(ctx context.Context, client rueidis.Client, kin replica.Kin) error {
	gone := map[*word]deed{}
	var ids []string
	h.mu.Lock()
	for w, d := range h.withdrawn {
		if len(ids) >= readAtOnce {
			break
		}
		gone[w] = d
		ids = slices.AppendSeq(ids, maps.Keys(w.ids))
	}
	h.mu.Unlock()
	if len(ids) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	if err := client.Do(ctx, client.B().Xdel().Key(streamOf(kin)).Id(ids...).Build()).Error(); err != nil {
		return fmt.Errorf("withdrawing what was told through Redis: %w", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for w, d := range gone {
		delete(h.withdrawn, w)
		h.remove(d, w)
	}
	return nil
}

// Stats is what can be said of a herald.
type Stats struct {
	// Told and Heard count words, the own ones among those heard; Rejected what was none.
	Told, Heard, Rejected int64
}

func (s Stats) plus(o Stats) Stats {
	return Stats{s.Told + o.Told, s.Heard + o.Heard, s.Rejected + o.Rejected}
}

// Stats does not block.
func (h *Herald) Stats() Stats { return Stats{h.told.Load(), h.heard.Load(), h.rejected.Load()} }

// ErrNowhere says that there is no way to other gateways but the database.
var ErrNowhere = errors.New("the gateways share no Redis (limits redis)")
