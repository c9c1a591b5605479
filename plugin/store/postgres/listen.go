package postgres

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// notifiedPollInterval is how often changes are asked for where they are told of too.
	notifiedPollInterval = time.Second
	// pollInterval is how often they are asked for where nobody tells of them.
	pollInterval = 100 * time.Millisecond
	// listenIdle is after how long a silent listening connection is tried.
	listenIdle = 5 * time.Second
	// probeChannel is where a node tells itself something, to see whether it is heard.
	probeChannel = "keygate_probe"
)

// poll has changes asked for every now and then, whatever is told of them: what was told
// while the connection was lost, nobody hears.
func (p *database) poll() {
	ticks := time.NewTicker(pollInterval)
	defer ticks.Stop()
	for asked := time.Now(); ; {
		select {
		case <-ticks.C:
		case <-p.s.Done():
			return
		}
		if now := time.Now(); !p.notified.Load() || now.Sub(asked) >= notifiedPollInterval {
			asked = now
			p.s.Signal()
		}
	}
}

// listen hears of changes as they are committed, on a connection of its own, until the
// store is closed.
func (p *database) listen() {
	ctx, end := p.s.Alive(context.Background())
	defer end()
	var warned *route
	for ctx.Err() == nil {
		r := p.route.Load()
		deaf := p.listenOn(ctx, r)
		if p.notified.Swap(false) || p.route.Load() != r {
			// It worked until now: more often than not it does again at once, and a second
			// without it is a second in which changes are asked for instead of told.
			continue
		}
		if deaf && warned != r {
			warned = r
			p.s.Log().Warn("PostgreSQL does not tell this node of changes, so it asks for them ten times a second: the address leads through a pooler; state the server's own with listen",
				"path", p.s.Identity())
		}
		select {
		case <-time.After(reopenInterval):
		case <-ctx.Done():
		}
	}
}

// listenOn listens by a route until the connection fails, or the route is left. It says whether there was a
// connection on which nothing is heard.
func (p *database) listenOn(ctx context.Context, r *route) (deaf bool) {
	ctx, end := context.WithCancel(ctx)
	defer end()
	go func() {
		select {
		case <-r.retired:
			end()
		case <-ctx.Done():
		}
	}()
	short, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(short, r.listener)
	if err != nil {
		return false // whoever reads or writes says why
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = conn.Close(closing)
	}()
	if _, err := conn.Exec(short, "LISTEN "+changesChannel+"; LISTEN "+probeChannel, pgx.QueryExecModeSimpleProtocol); err != nil {
		return false
	}
	// First listen, then catch up: what was committed before may not have been told.
	p.s.Signal()
	// On another connection: through a pooler, what this one sends may come back by chance.
	word := rand.Text()
	if _, err := p.conns.Read.ExecContext(short, `SELECT pg_notify('`+probeChannel+`', $1)`, word); err != nil {
		return false
	}
	for {
		quiet, cancel := context.WithTimeout(ctx, listenIdle)
		n, err := conn.WaitForNotification(quiet)
		cancel()
		switch {
		case ctx.Err() != nil:
			return false
		case err == nil && n.Channel == changesChannel:
			p.s.Signal()
		case err == nil:
			if n.Payload == word {
				p.notified.Store(true)
			}
		case quiet.Err() == nil:
			return false // the connection failed
		case !p.notified.Load():
			return true
		default:
			if trying, cancel := context.WithTimeout(ctx, listenIdle); conn.Ping(trying) != nil {
				cancel()
				return false
			} else {
				cancel()
			}
		}
	}
}
