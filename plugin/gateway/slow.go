package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/keygate-dev/keygate/plugin/apikey"
)

// Keys that were imported as bcrypt hashes can't be looked up, only compared with, which
// takes so much time that it must not be had for the asking. So a key is compared only
// where the filter of digests knows its lead, with the few secrets that have it, two
// comparisons at a time in all and one at a time per lead: who knows how one
// key begins keeps nobody but that key's holder waiting. A key that was recognised is stored in its primary form, and never compared again.

const (
	// comparisons is how many bcrypt comparisons run at once.
	comparisons = 2
	// waitingPerLead and waitingInAll bound who waits for a comparison; others are told to
	// come again.
	waitingPerLead, waitingInAll = 8, 128
	// slowTimeout bounds a look-up that needs comparisons.
	slowTimeout = 20 * time.Second
	// MaxPerLead is with how many stored secrets one key is compared at the most. Imports
	// keep to it.
	MaxPerLead = 16
)

// errBusy says that too many comparisons are waited for: nothing is wrong with the store.
var errBusy = fmt.Errorf("%w: too many keys wait to be compared", ErrStore)

// comparer runs bcrypt comparisons. Its zero value is not ready: see newComparer.
type comparer struct {
	slots chan struct{}

	mu    sync.Mutex
	leads map[leadID]*leadTurn
	all   int
}

type leadID struct {
	keyspace string
	lead     apikey.Lead
}

// leadTurn is held by the one that compares under a lead; a channel, so that waiting
// ends with the context.
type leadTurn struct {
	turn  chan struct{}
	users int
}

func newComparer() *comparer {
	return &comparer{slots: make(chan struct{}, comparisons), leads: map[leadID]*leadTurn{}}
}

// enter waits for the lead's turn, and returns what ends it.
func (c *comparer) enter(ctx context.Context, id leadID) (leave func(), err error) {
	c.mu.Lock()
	t := c.leads[id]
	if t == nil {
		t = &leadTurn{turn: make(chan struct{}, 1)}
	}
	if t.users >= waitingPerLead || c.all >= waitingInAll {
		c.mu.Unlock()
		return nil, errBusy
	}
	c.leads[id] = t
	t.users++
	c.all++
	c.mu.Unlock()
	forget := func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.all--
		if t.users--; t.users == 0 {
			delete(c.leads, id)
		}
	}
	select {
	case t.turn <- struct{}{}:
		return func() { <-t.turn; forget() }, nil
	case <-ctx.Done():
		forget()
		return nil, errBusy
	}
}

// equal says whether hash is of key.
func (c *comparer) equal(ctx context.Context, hash, key string) (bool, error) {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return false, errBusy
	}
	return bcrypt.CompareHashAndPassword([]byte(hash), []byte(key)) == nil, nil
}

// leads returns those of key under which something may be stored.
func (g *Gateway) leads(ks *Keyspace, key string) []apikey.Lead {
	f := g.filter.Load()
	var buf [8]apikey.Lead
	var out []apikey.Lead
	for _, l := range ks.Grammar.Leads(buf[:0], key) {
		if f == nil || f.has(words(l[:])) {
			out = append(out, l)
		}
	}
	return out
}

// sought is a presented key that is looked for.
type sought struct {
	candidates []apikey.Candidate
	leads      []apikey.Lead
	// shown is what may be shown of the key.
	shown shownParts
	// key is kept while it is compared, and only where there are leads.
	key string
}

// shownParts are the first and the last characters that people know a key by.
type shownParts struct{ prefix, lastFour string }

// seek loads the key: by its digests, else by comparing. Errors as load's.
func (g *Gateway) seek(id callID, digest apikey.Digest, s sought) (*entry, error) {
	created := g.table.created.Load()
	ctx, cancel := context.WithTimeout(context.Background(), loadTimeout)
	defer cancel()
	e, err := g.load(ctx, id.keyspace, digest, s.candidates, s.shown)
	if errors.Is(err, errUnknown) && len(s.leads) > 0 {
		e, err = g.compare(id.keyspace, digest, s)
	}
	if errors.Is(err, errUnknown) {
		_, low := words(digest[:])
		g.loads.unknown.put(id.word, low, created, id.hasher)
	}
	return e, err
}

// compare looks for the key among the secrets that begin as it does, and stores the one
// it finds in its primary form.
func (g *Gateway) compare(keyspace string, digest apikey.Digest, s sought) (*entry, error) {
	ctx, cancel := context.WithTimeout(context.Background(), slowTimeout)
	defer cancel()
	for _, lead := range s.leads {
		found, err := g.compareUnder(ctx, leadID{keyspace, lead}, s)
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
			g.learn([][]byte{digest[:]})
		}
		return g.load(ctx, keyspace, digest, by, s.shown)
	}
	return nil, errUnknown
}

// compareUnder returns the secret of one lead that is the key's, nil where none is.
func (g *Gateway) compareUnder(ctx context.Context, id leadID, s sought) (*Secret, error) {
	// Most that come here do so because the filter errs: nothing is stored.
	list, err := g.store.SecretsLed(ctx, id.keyspace, id.lead, MaxPerLead)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	leave, err := g.comparer.enter(ctx, id)
	if err != nil {
		return nil, err
	}
	defer leave()
	for i := range list {
		hash, ok := list[i].Algorithm.Bcrypt()
		if !ok || len(list[i].Digest) != len(apikey.Digest{}) {
			continue
		}
		equal, err := g.comparer.equal(ctx, hash, s.key)
		if err != nil {
			return nil, err
		}
		if equal {
			return &list[i], nil
		}
	}
	return nil, nil
}

// newSought returns what a load keeps beyond the request that began it.
func newSought(req *Request, candidates []apikey.Candidate, leads []apikey.Lead) sought {
	s := sought{candidates: slices.Clone(candidates), leads: leads}
	prefix, lastFour := req.Keyspace.Grammar.Shown(req.Credential)
	s.shown = shownParts{strings.Clone(prefix), strings.Clone(lastFour)}
	if len(leads) > 0 {
		s.key = req.Credential
	}
	return s
}
