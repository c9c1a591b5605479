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

// unknownRules are how many look-ups run at once of tokens, sessions and portal links that may be unknown, and how many of these
// are answered a second, and at once.
var unknownRules = turns.Rules{Slots: 4, Rate: 100, Burst: 500, Waiting: 1024, PerClient: 512}

// lookUpUnknown runs a look-up of what a client shows that may be unknown, in its turn. Floods of unknown secrets
// then leave the store to others, and one who shows a known one waits behind few of them.
func (auth *Authority) lookUpUnknown(ctx context.Context, ip string, look func() error) error {
	ctx, cancel := context.WithTimeout(ctx, unknownTimeout)
	defer cancel()
	addr, _ := netip.ParseAddr(ip) // the zero Addr where there is none
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

// unknownTimeout bounds how long a turn is waited for.
const unknownTimeout = 5 * time.Second

var errTooManyUnknown = &management.Error{
	Status: http.StatusServiceUnavailable, Code: management.CodeStoreUnavailable, RetryAfter: time.Second,
	Detail: "Too many unknown secrets are sent at the moment; try again.",
}

// knownSessions are the secrets' digests of sessions that were good when they were last shown: these wait for no turn.
type knownSessions struct {
	mu   sync.Mutex
	good map[string]struct{}
}

const maxKnownSessions = 4096

func (k *knownSessions) has(digest []byte) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, ok := k.good[string(digest)]
	return ok
}

func (k *knownSessions) note(digest []byte, good bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !good {
		delete(k.good, string(digest))
		return
	}
	if k.good == nil || len(k.good) >= maxKnownSessions {
		k.good = make(map[string]struct{})
	}
	k.good[string(digest)] = struct{}{}
}
