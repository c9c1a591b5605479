package auth

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/keygate-dev/keygate/internal/turns"
	"github.com/keygate-dev/keygate/plugin/management"
)

// unknownRules bound the look-ups of tokens, sessions and portal links that may be unknown: how
// many run at once, and how many unknown ones are looked up a second and in a burst.
var unknownRules = turns.Rules{Slots: 4, Rate: 100, Burst: 500, Waiting: 1024, PerClient: 512}

// lookUpUnknown runs the look-up of a secret that may be unknown, when it is its turn. So a flood
// of unknown secrets does not keep others from the store, and a client with a known secret waits
// behind few of them.
func (auth *Authority) lookUpUnknown(ctx context.Context, ip string, look func() error) error {
	ctx, cancel := context.WithTimeout(ctx, unknownTimeout)
	defer cancel()
	addr, _ := netip.ParseAddr(ip) // An invalid ip gives the zero Addr.
	done, err := auth.unknowns.Enter(ctx, nil, addr, false)
	if err != nil {
		return errTooManyUnknown
	}
	cost := 0.0
	defer func() { done(cost) }()
	err = look()
	if errors.Is(err, management.ErrUnknownToken) || errors.Is(err, ErrNoSession) || errors.Is(err, ErrPortalLink) {
		cost = 1
	}
	return err
}

// unknownTimeout bounds the wait for a turn.
const unknownTimeout = 5 * time.Second

var errTooManyUnknown = &management.Error{
	Status: http.StatusServiceUnavailable, Code: management.CodeStoreUnavailable, RetryAfter: time.Second,
	Detail: "Too many unknown secrets are sent at the moment; try again.",
}

// knownSessions holds the digests of session secrets that were valid when they were last sent.
// Their look-ups wait for no turn.
type knownSessions struct {
	mu    sync.Mutex
	valid map[string]struct{}
}

const maxKnownSessions = 4096

func (k *knownSessions) has(digest []byte) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, ok := k.valid[string(digest)]
	return ok
}

func (k *knownSessions) record(digest []byte, valid bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !valid {
		delete(k.valid, string(digest))
		return
	}
	if k.valid == nil || len(k.valid) >= maxKnownSessions {
		k.valid = make(map[string]struct{})
	}
	k.valid[string(digest)] = struct{}{}
}
