package postgres

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// notifiedPollInterval is how often the store polls for changes while the server sends
	// notifications.
	notifiedPollInterval = time.Second
	// pollInterval is how often the store polls for changes while it receives no notifications.
	pollInterval = 100 * time.Millisecond
	// listenIdle is the time without a notification after which the store checks the listening connection.
	listenIdle = 5 * time.Second
	// probeChannel is the channel on which a node notifies itself, to find out whether
	// notifications arrive.
	probeChannel = "keygate_probe"
)

// poll signals a possible change at each interval. It continues while the server sends notifications,
// because some notifications are lost when the connection breaks.
func (p *database) poll() {
	ticks := time.NewTicker(pollInterval)
	defer ticks.Stop()
	for signalled := time.Now(); ; {
		select {
		case <-ticks.C:
		case <-p.s.Done():
			return
		}
		if now := time.Now(); !p.notified.Load() || now.Sub(signalled) >= notifiedPollInterval {
			signalled = now
			p.s.Signal()
		}
	}
}

// listen receives notifications about commits on a connection of its own, until the store is closed.
// When the connection fails, listen opens another one.
func (p *database) listen() {
	ctx, end := p.s.Alive(context.Background())
	defer end()
	var warned *route
	for ctx.Err() == nil {
		r := p.route.Load()
		unnotified := p.listenOn(ctx, r)
		if p.notified.Swap(false) || p.route.Load() != r {
			// The listener reconnects without a pause, because notifications arrived until now and a new
			// connection usually works at once. Until then poll finds the changes.
			continue
		}
		if unnotified && warned != r {
			warned = r
			p.s.Log().Warn("this node receives no notifications of changes from PostgreSQL and polls ten times a second: its address leads through a pooler; set listen to the address of the server itself",
				"path", p.s.Identity())
		}
		select {
		case <-time.After(reopenInterval):
		case <-ctx.Done():
		}
	}
}

// listenOn listens on a connection of the route until the connection fails or the route is retired. It
// reports whether the connection worked but received no notifications.
func (p *database) listenOn(ctx context.Context, r *route) (unnotified bool) {
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
		return false // The failure needs no report, because the store's reads and writes fail too and report the reason.
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = conn.Close(closing)
	}()
	if _, err := conn.Exec(short, "LISTEN "+changesChannel+"; LISTEN "+probeChannel, pgx.QueryExecModeSimpleProtocol); err != nil {
		return false
	}
	// The signal makes the follower look for changes, because commits before LISTEN sent no notification to
	// this connection.
	p.s.Signal()
	// The test notification is sent on another connection. Through a pooler, a connection may receive its
	// own notifications by chance.
	token := rand.Text()
	if _, err := p.conns.Read.ExecContext(short, `SELECT pg_notify('`+probeChannel+`', $1)`, token); err != nil {
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
			if n.Payload == token {
				p.notified.Store(true)
			}
		case quiet.Err() == nil:
			return false // The listening connection failed.
		case !p.notified.Load():
			return true
		default:
			if checking, cancel := context.WithTimeout(ctx, listenIdle); conn.Ping(checking) != nil {
				cancel()
				return false
			} else {
				cancel()
			}
		}
	}
}
