package gateway

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

// Keys that were imported as bcrypt hashes can't be looked up, only compared with, which
// takes so much time that it must not be had for the asking. So a key is compared only
// where the filter of digests knows its lead, with the few secrets that have it, and all wrong guesses
// together get a tenth of a processor. Those who wait are asked in turn by lead and by address, so that who knows how one
// key begins keeps no one else waiting for long; an address beyond its failures waits for all others. A key that was
// recognised costs nothing of that, is stored in its primary form, and never compared again.

const (
	// concurrentComparisons is how many bcrypt comparisons run at once.
	concurrentComparisons = 2
	// guessing is the part of a processor that wrong guesses get, and guessingBurst how many seconds of it at once.
	guessing, guessingBurst = 0.1, 2
	// waitingPerClient and waitingInAll bound who waits for a comparison; others are told to
	// come again.
	waitingPerClient, waitingInAll = 8, 128
	// slowTimeout bounds a look-up that needs comparisons.
	slowTimeout = 20 * time.Second
	// MaxPerHint is with how many stored secrets one key is compared at the most. Imports
	// keep to it.
	MaxPerHint = 16
)

// errBusy says that too many look-ups or comparisons are waited for: nothing is wrong with the store.
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

// equal reports whether hash is of the key that s looks for, and returns how many seconds that took.
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

// hints returns those of key under which something may be stored.
func (g *Gateway) hints(ks *Keyspace, key string) []apikey.Hint {
	f := g.filter.Load()
	var buf [8]apikey.Hint
	var out []apikey.Hint
	for _, l := range ks.Grammar.Hints(buf[:0], key) {
		if f == nil || f.has(digestWords(l[:])) {
			out = append(out, l)
		}
	}
	return out
}

// keyQuery is a presented key that is looked for.
type keyQuery struct {
	candidates []apikey.Candidate
	hints      []apikey.Hint
	// shown is what may be shown of the key.
	shown shownParts
	// KeyState is kept while it is compared, and only where there are leads.
	key string
	// addr is where it came from, and last that this address failed too often to be asked before others.
	addr        netip.Addr
	lowPriority bool
}

// shownParts are the first and the last characters that people know a key by.
type shownParts struct{ prefix, lastFour string }

// lookupOrCompare loads the key: by its digests, else by comparing. Errors as load's.
func (g *Gateway) lookupOrCompare(id flightID, digest apikey.Digest, s keyQuery) (*entry, error) {
	created := g.table.creations.Load()
	ctx, cancel := context.WithTimeout(context.Background(), loadTimeout)
	defer cancel()
	e, err := g.lookupRationed(ctx, id, digest, s)
	if errors.Is(err, errUnknown) && len(s.hints) > 0 {
		e, err = g.compare(id.keyspace, digest, s)
	}
	if errors.Is(err, errUnknown) {
		_, low := digestWords(digest[:])
		g.loads.unknown.put(id.word, low, created, id.hasher)
	}
	return e, err
}

// unknownLookups are how many look-ups run at once that may be of unknown keys, and how many of these are answered a
// second, and at once. Fewer run at a time than all may, so that known keys are read again meanwhile.
var unknownLookupRules = turns.Rules{Slots: concurrentLoads - 4, Rate: 200, Burst: 1000, Waiting: 4096, PerClient: 2048}

// lookupRationed is load for a key that may be unknown.
func (g *Gateway) lookupRationed(ctx context.Context, id flightID, digest apikey.Digest, s keyQuery) (*entry, error) {
	done, err := g.unknownLookups.Enter(ctx, nil, s.addr, s.lowPriority)
	if err != nil {
		return nil, errBusy
	}
	e, err := g.load(ctx, id.keyspace, digest, s.candidates, s.shown)
	if errors.Is(err, errUnknown) {
		done(1)
	} else {
		done(0)
	}
	return e, err
}

// compare looks for the key among the secrets that begin as it does, and stores the one
// it finds in its primary form.
func (g *Gateway) compare(keyspace string, digest apikey.Digest, s keyQuery) (*entry, error) {
	ctx, cancel := context.WithTimeout(context.Background(), slowTimeout)
	defer cancel()
	for _, lead := range s.hints {
		found, err := g.compareUnder(ctx, hintID{keyspace, lead}, s)
		if err != nil {
			return nil, err
		}
		if found == nil {
			continue
		}
		by := s.candidates
		if err := g.store.Rehash(ctx, keyspace, found.ID, by[0]); err != nil && !errors.Is(err, ErrNotFound) {
			// It was recognised, so it passes, and is compared again the next time.
			g.log.Warn("an imported key could not be stored in its primary form", "error", err)
			by = []apikey.Candidate{{Algorithm: found.Algorithm, Digest: apikey.Digest(found.Digest)}}
		} else {
			g.addToFilter([][]byte{digest[:]})
		}
		return g.load(ctx, keyspace, digest, by, s.shown)
	}
	return nil, errUnknown
}

// compareUnder returns the secret of one lead that is the key's, nil where none is.
func (g *Gateway) compareUnder(ctx context.Context, id hintID, s keyQuery) (*Secret, error) {
	// Most that come here do so because the filter errs: nothing is stored.
	list, err := g.store.SecretsByHint(ctx, id.keyspace, id.hint, MaxPerHint)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	spent := 0.0
	for i := range list {
		hash, ok := list[i].Algorithm.Bcrypt()
		if !ok || len(list[i].Digest) != len(apikey.Digest{}) {
			continue
		}
		equal, cost, err := g.comparer.equal(ctx, id, hash, s)
		if err != nil {
			return nil, err
		}
		spent += cost
		if equal {
			g.comparer.Refund(spent) // it was no guess
			return &list[i], nil
		}
	}
	return nil, nil
}

// newKeyQuery returns what a load keeps beyond the request that began it.
func (g *Gateway) newKeyQuery(req *Request, candidates []apikey.Candidate, leads []apikey.Hint) keyQuery {
	s := keyQuery{candidates: slices.Clone(candidates), hints: leads, addr: req.Addr}
	prefix, lastFour := req.Keyspace.Grammar.Shown(req.Credential)
	s.shown = shownParts{strings.Clone(prefix), strings.Clone(lastFour)}
	if f := g.failuresOf(req.Keyspace); f != nil {
		s.lowPriority = f.Over(req.Now, req.Addr)
	}
	if len(leads) > 0 {
		s.key = req.Credential
	}
	return s
}
