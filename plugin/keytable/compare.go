package keytable

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/keygate-dev/keygate/internal/turns"
	"github.com/keygate-dev/keygate/plugin/apikey"
)

// A key that was imported as a bcrypt hash cannot be looked up, only compared, and a comparison
// takes much time. So a key is compared only where the filter of digests holds its hint, and only
// with the few secrets that have this hint. All wrong guesses together get a tenth of a processor.
// Requests that wait are served in turn by hint and by address, so that a client who knows how one
// key begins cannot delay others for long. An address that sent too many unknown keys is served
// last. A comparison that matches is not charged to this budget. Its key is stored in its primary
// form, and is never compared again.

const (
	// concurrentComparisons is how many bcrypt comparisons run at once.
	concurrentComparisons = 2
	// guessing is the part of a processor that wrong guesses get, guessingBurst how many seconds
	// of a processor they may use at once.
	guessing, guessingBurst = 0.1, 2
	// waitingPerClient and waitingInAll bound the requests that wait for a comparison; others get
	// 503.
	waitingPerClient, waitingInAll = 8, 128
	// slowTimeout bounds a look-up that needs comparisons.
	slowTimeout = 20 * time.Second
	// MaxPerHint bounds the stored secrets that one key is compared with. An import rejects
	// further keys with the same hint.
	MaxPerHint = 16
)

// errBusy means that too many look-ups or comparisons wait. The store works.
var errBusy = fmt.Errorf("%w: too many unknown keys are sent", ErrStore)

// comparer runs bcrypt comparisons.
type comparer struct{ *turns.Queue }

func newComparer() comparer {
	return comparer{turns.New(turns.Rules{
		Slots: concurrentComparisons, Rate: guessing, Burst: guessingBurst, Waiting: waitingInAll, PerClient: waitingPerClient,
	})}
}

type hintID struct {
	keyspace string
	hint     apikey.Hint
}

// equal reports whether hash is the bcrypt hash of the key in s, and how many seconds the
// comparison took. It waits for its turn within ctx. It returns errBusy where too many requests
// wait, or ctx ends.
func (c comparer) equal(ctx context.Context, id hintID, hash string, s keyQuery) (equal bool, cost float64, err error) {
	done, err := c.Enter(ctx, id, s.addr, s.lowPriority)
	if err != nil {
		return false, 0, errBusy
	}
	begun := time.Now()
	equal = bcrypt.CompareHashAndPassword([]byte(hash), []byte(s.key)) == nil
	cost = time.Since(begun).Seconds()
	done(cost)
	return equal, cost, nil
}

// hints returns the short digests under which the store may hold imported secrets that fit key.
func (t *Table) hints(grammar *apikey.Grammar, key string) []apikey.Hint {
	f := t.filter.Load()
	var buf [8]apikey.Hint
	var out []apikey.Hint
	for _, hint := range grammar.Hints(buf[:0], key) {
		if f == nil || f.has(digestWords(hint[:])) {
			out = append(out, hint)
		}
	}
	return out
}

// keyQuery is the part of a Query that a load needs, also after the request has ended.
type keyQuery struct {
	candidates []apikey.Candidate
	hints      []apikey.Hint
	// shown holds the parts of the key that may be shown.
	shown shownParts
	// key is the full key. It is set only if there are hints, because only a comparison with a bcrypt hash needs the full key.
	key string
	// addr is the client's address. lowPriority reports whether it sent too many unknown keys.
	addr        netip.Addr
	lowPriority bool
}

// shownParts are the first and last characters of a key, by which people recognize it.
type shownParts struct{ prefix, lastFour string }

// lookupOrCompare looks the key up by its digests. If the store has none of the digests, it compares the key with the
// imported secrets that have the key's hints. It returns ErrUnknown for an unknown key, and other errors that wrap
// ErrStore.
func (t *Table) lookupOrCompare(id flightID, digest apikey.Digest, s keyQuery) (*Entry, error) {
	created := t.creations.Load()
	ctx, cancel := context.WithTimeout(context.Background(), loadTimeout)
	defer cancel()
	e, err := t.lookupRationed(ctx, id, digest, s)
	if errors.Is(err, ErrUnknown) && len(s.hints) > 0 {
		e, err = t.compare(id.keyspace, digest, s)
	}
	if errors.Is(err, ErrUnknown) {
		_, low := digestWords(digest[:])
		t.loads.unknown.put(id.word, low, created, id.hasher)
	}
	return e, err
}

// unknownLookupRules bound the look-ups of keys that may be unknown: how many run at once, and how
// many unknown keys are looked up a second. They leave four of all look-ups free for records of
// known keys.
var unknownLookupRules = turns.Rules{Slots: concurrentLoads - 4, Rate: 200, Burst: 1000, Waiting: 4096, PerClient: 2048}

// lookupRationed is load for a key that may be unknown. It waits for its turn under unknownLookupRules, and returns errBusy
// if too many look-ups wait.
func (t *Table) lookupRationed(ctx context.Context, id flightID, digest apikey.Digest, s keyQuery) (*Entry, error) {
	done, err := t.unknownLookups.Enter(ctx, nil, s.addr, s.lowPriority)
	if err != nil {
		return nil, errBusy
	}
	e, err := t.load(ctx, id.keyspace, digest, s.candidates, s.shown)
	if errors.Is(err, ErrUnknown) {
		done(1)
	} else {
		done(0)
	}
	return e, err
}

// compare looks for the key among the secrets that share a hint with the key. It stores the secret that matches in its
// primary form.
func (t *Table) compare(keyspace string, digest apikey.Digest, s keyQuery) (*Entry, error) {
	ctx, cancel := context.WithTimeout(context.Background(), slowTimeout)
	defer cancel()
	for _, hint := range s.hints {
		found, err := t.compareUnder(ctx, hintID{keyspace, hint}, s)
		if err != nil {
			return nil, err
		}
		if found == nil {
			continue
		}
		by := s.candidates
		if err := t.store.Rehash(ctx, keyspace, found.ID, by[0]); err != nil && !errors.Is(err, ErrNotFound) {
			// The key matched, so the request is allowed although the new digest could not be stored.
			t.log.Warn("an imported bcrypt key matched, but its digest could not be stored: the next use of the key is compared with bcrypt again", "keyspace", keyspace, "key", found.KeyID, "error", err)
			by = []apikey.Candidate{{Algorithm: found.Algorithm, Digest: apikey.Digest(found.Digest)}}
		} else {
			t.addToFilter([][]byte{digest[:]})
		}
		return t.load(ctx, keyspace, digest, by, s.shown)
	}
	return nil, ErrUnknown
}

// compareUnder returns the secret of the key among the secrets with one hint; nil if none of them matches.
func (t *Table) compareUnder(ctx context.Context, id hintID, s keyQuery) (*Secret, error) {
	// Most calls come from false positives of the filter: the store has no such secret.
	list, err := t.store.SecretsByHint(ctx, id.keyspace, id.hint, MaxPerHint)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	spent := 0.0
	for i := range list {
		hash, ok := list[i].Algorithm.Bcrypt()
		if !ok || len(list[i].Digest) != len(apikey.Digest{}) {
			continue
		}
		equal, cost, err := t.comparer.equal(ctx, id, hash, s)
		if err != nil {
			return nil, err
		}
		spent += cost
		if equal {
			t.comparer.Refund(spent) // The key was valid, so its comparisons are not charged as wrong guesses.
			return &list[i], nil
		}
	}
	return nil, nil
}

// newKeyQuery copies from q what a load needs, as the load may outlive the request.
func (t *Table) newKeyQuery(q *Query, candidates []apikey.Candidate, hints []apikey.Hint) keyQuery {
	s := keyQuery{candidates: slices.Clone(candidates), hints: hints, addr: q.Addr}
	prefix, lastFour := q.Grammar.Shown(q.Credential)
	s.shown = shownParts{strings.Clone(prefix), strings.Clone(lastFour)}
	if q.Failures != nil {
		s.lowPriority = q.Failures.Over(q.Now, q.Addr)
	}
	if len(hints) > 0 {
		s.key = q.Credential
	}
	return s
}
