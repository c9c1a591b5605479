package postgres

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// notifiedPollInterval is how often changes are polled while the server notifies about them.
	notifiedPollInterval = time.Second
	// pollInterval is how often changes are polled without notifications.
	pollInterval = 100 * time.Millisecond
	// listenIdle is the time without a notification after which the connection is checked.
	listenIdle = 5 * time.Second
	// probeChannel is the channel on which a node notifies itself, to see whether notifications arrive.
	probeChannel = "keygate_probe"
)

// poll signals a possible change now and then, also while the server notifies: notifications are lost
// while the connection is.
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

// listen receives notifications about commits on a connection of its own, until the
// store is closed.
func (p *database) listen() {
	ctx, end := p.s.Alive(context.Background())
	defer end()
	var warned *route
	for ctx.Err() == nil {
		r := p.route.Load()
		deaf := p.listenOn(ctx, r)
		if p.notified.Swap(false) || p.route.Load() != r {
			// It worked until now, and mostly works again at once. Until then changes are polled.
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

// listenOn listens by a route until the connection fails, or the route is retired. It reports whether there was a
// connection without notifications.
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
		return false // reads and writes report the reason
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = conn.Close(closing)
	}()
	if _, err := conn.Exec(short, "LISTEN "+changesChannel+"; LISTEN "+probeChannel, pgx.QueryExecModeSimpleProtocol); err != nil {
		return false
	}
	// First listen, then catch up: earlier commits may have caused no notification here.
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
