package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// probeTimeout bounds trying another address, and reachableTimeout finding out whether the one in use answers.
	probeTimeout     = 10 * time.Second
	reachableTimeout = 5 * time.Second
)

// unusableError says that an address leads to a database that can't take the place of the one in use.
type unusableError struct{ text string }

func (e *unusableError) Error() string { return e.text }

// Redirect has the store reach its PostgreSQL at another address, and be told of changes at listen, from now on:
// with another password, as another user, by other hosts. Nothing that runs is interrupted, and what is connected
// by the former address goes on being used until Settle.
//
// The new addresses are tried first. Where the server refuses them, where they lead to another
// store, or do not answer while the former one does, that is an error, and nothing has changed. Where
// neither answers, the new one is tried on. It blocks for some seconds at most, and is for PostgreSQL alone.
func (s *Store) Redirect(ctx context.Context, address, listen string) error {
	p := s.db
	to, err := newRoute(address, listen)
	if err != nil {
		return err
	}
	p.moving.Lock()
	defer p.moving.Unlock()
	if p.route.Load().same(to) {
		return nil
	}
	asked := make(chan bool, 1)
	go func() { asked <- p.reachable(ctx) }()
	err = p.probe(ctx, to)
	there := <-asked
	switch {
	case err == nil:
	case serverRejected(err):
		return err
	case there:
		return fmt.Errorf("%w; the address that was in use until now answers, and stays in use", err)
	default:
		s.Log().Warn("neither the former address of the database nor the new one answers: the new one is tried on", "path", to.name, "error", err)
	}
	p.useRoute(to)
	if !there {
		// What is connected by the former ones would only be waited for.
		p.retireOthers(to)
	}
	return nil
}

// SetAddress has the store reach its PostgreSQL at an address, unchecked, and gives up what is connected
// by others: at once where nobody uses it, else as soon as nobody does. It does not wait for that.
func (s *Store) SetAddress(address, listen string) error {
	p := s.db
	to, err := newRoute(address, listen)
	if err != nil {
		return err
	}
	p.moving.Lock()
	defer p.moving.Unlock()
	p.retireOthers(p.useRoute(to))
	return nil
}

// useRoute has connections be made by a route, or by the one there is that is the same, which it returns.
func (p *database) useRoute(to *route) *route {
	if i := slices.IndexFunc(p.routes, to.same); i >= 0 {
		to = p.routes[i]
	} else {
		p.routes = append(p.routes, to)
	}
	if p.route.Swap(to) == to {
		return to
	}
	p.s.Log().Info("connections to the database are made by another address from now on", "path", to.name)
	p.mu.Lock()
	p.nextOpen = time.Time{} // what failed may have been due to the former one
	p.uncapPools()
	p.mu.Unlock()
	return to
}

// retireOthers gives up the connections of all routes but one.
func (p *database) retireOthers(but *route) {
	if len(p.routes) == 1 && p.routes[0] == but {
		return
	}
	for _, r := range p.routes {
		if r != but {
			r.retire()
			go p.drainRoute(r)
		}
	}
	p.routes = []*route{but}
}

// drainRoute closes the connections of a route that was left: those that are in use when they are that no more, and those
// that are being made when they are there.
func (p *database) drainRoute(r *route) {
	begun := time.Now()
	p.closeIdle()
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, capFor) {
		select {
		case <-time.After(pause):
		case <-p.s.Done():
			return
		}
		switch {
		case r.open.Load() > 0:
			p.closeIdle()
		case time.Since(begun) > 2*connectTimeout:
			return
		}
	}
}

// reachable says whether the database is reached as it was until now.
func (p *database) reachable(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, reachableTimeout)
	defer cancel()
	return p.Ping(ctx) == nil
}

// probe finds out whether a route leads to the store, and may be used. It returns why not.
func (p *database) probe(ctx context.Context, to *route) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	p.mu.Lock()
	id := p.id
	p.mu.Unlock()
	err := once(ctx, to.config, func(c *pgx.Conn) error {
		var is sql.NullString
		var may bool
		err := c.QueryRow(ctx, `SELECT (SELECT value FROM meta WHERE name = 'store_id'), coalesce(has_table_privilege('changes', 'INSERT'), false)`).Scan(&is, &may)
		switch {
		case id == "":
			// There was no store yet: whatever is there is made one, or refused, when it is opened.
			if err != nil && code(err) == codeNoTable {
				err = nil
			}
			return err
		case code(err) == codeNoTable, err == nil && is.String != id:
			return &unusableError{to.name + " is not the store in use: it is another one, to which only a restart goes over, or holds none that this user may see"}
		case err == nil && !may:
			return &unusableError{to.name + ": the user may not write to the store's tables: grant it what the former one had, or membership in it"}
		}
		return err
	})
	if err == nil && to.listener != to.config {
		if err = once(ctx, to.listener, func(c *pgx.Conn) error { return c.Ping(ctx) }); err != nil {
			name := nameOf(to.listener)
			return explain("trying the address to listen on", name, &listenError{err})
		}
	}
	var unusable *unusableError
	if errors.As(err, &unusable) {
		return err
	}
	return explain("trying the new address", to.name, err)
}

// listenError is an error of the address that is listened on: the store itself answers.
type listenError struct{ error }

func (e *listenError) Unwrap() error { return e.error }

// once calls f with a connection of its own.
func once(ctx context.Context, config *pgx.ConnConfig, f func(*pgx.Conn) error) error {
	c, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = c.Close(ctx)
	}()
	return f(c)
}

// serverRejected says that err is the answer of a server, and no matter of time.
func serverRejected(err error) bool {
	var unusable *unusableError
	var listen *listenError
	if errors.As(err, &unusable) || errors.As(err, &listen) {
		return true
	}
	c := code(err)
	return c == codeNoDatabase || c == codeNoPrivilege || c == codeNoTable || unauthorized(err)
}
