package sqlstore

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// tickEvery is how often changes are asked for where they are told of too.
	tickEvery = time.Second
	// askEvery is how often they are asked for where nobody tells of them.
	askEvery = 100 * time.Millisecond
	// quietFor is after how long a silent listening connection is tried.
	quietFor = 5 * time.Second
	// probeChannel is where a node tells itself something, to see whether it is heard.
	probeChannel = "keygate_probe"
)

// tick has changes asked for every now and then, whatever is told of them: what was told
// while the connection was lost, nobody hears.
func (p *postgresDB) tick() {
	ticks := time.NewTicker(askEvery)
	defer ticks.Stop()
	for asked := time.Now(); ; {
		select {
		case <-ticks.C:
		case <-p.s.done:
			return
		}
		if now := time.Now(); !p.told.Load() || now.Sub(asked) >= tickEvery {
			asked = now
			p.s.feed.stir()
		}
	}
}

// listen hears of changes as they are committed, on a connection of its own, until the
// store is closed.
func (p *postgresDB) listen() {
	ctx, end := p.s.alive(context.Background())
	defer end()
	var warned *route
	for ctx.Err() == nil {
		r := p.route.Load()
		deaf := p.hear(ctx, r)
		if p.told.Swap(false) || p.route.Load() != r {
			// It worked until now: more often than not it does again at once, and a second
			// without it is a second in which changes are asked for instead of told.
			continue
		}
		if deaf && warned != r {
			warned = r
			p.s.log.Warn("PostgreSQL does not tell this node of changes, so it asks for them ten times a second: the address leads through a pooler; state the server's own with listen",
				"path", p.s.Identity())
		}
		select {
		case <-time.After(reopenEvery):
		case <-ctx.Done():
		}
	}
}

// hear listens by a route until the connection fails, or the route is left. It says whether there was a
// connection on which nothing is heard.
func (p *postgresDB) hear(ctx context.Context, r *route) (deaf bool) {
	ctx, end := context.WithCancel(ctx)
	defer end()
	go func() {
		select {
		case <-r.left:
			end()
		case <-ctx.Done():
		}
	}()
	short, cancel := context.WithTimeout(ctx, pgConnectTimeout)
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
	p.s.feed.stir()
	// On another connection: through a pooler, what this one sends may come back by chance.
	word := rand.Text()
	if _, err := p.conns.read.ExecContext(short, `SELECT pg_notify('`+probeChannel+`', $1)`, word); err != nil {
		return false
	}
	for {
		quiet, cancel := context.WithTimeout(ctx, quietFor)
		n, err := conn.WaitForNotification(quiet)
		cancel()
		switch {
		case ctx.Err() != nil:
			return false
		case err == nil && n.Channel == changesChannel:
			p.s.feed.stir()
		case err == nil:
			if n.Payload == word {
				p.told.Store(true)
			}
		case quiet.Err() == nil:
			return false // the connection failed
		case !p.told.Load():
			return true
		default:
			if trying, cancel := context.WithTimeout(ctx, quietFor); conn.Ping(trying) != nil {
				cancel()
				return false
			} else {
				cancel()
			}
		}
	}
}
