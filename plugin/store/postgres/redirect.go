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
	// probeTimeout bounds the check of a new address. reachableTimeout bounds the check whether
	// the present address answers.
	probeTimeout     = 10 * time.Second
	reachableTimeout = 5 * time.Second
)

// unusableError is the error for an address whose database can't replace the database in use.
type unusableError struct{ text string }

func (e *unusableError) Error() string { return e.text }

// Redirect makes the store use another address of the same database, with another password, user or
// host. The store then listens for changes at listen. Running calls are not interrupted. Connections
// to the former address stay in use until SetAddress.
//
// Redirect checks the new addresses first. It returns an error and changes nothing in three cases: the
// server rejects the addresses, they lead to another store, or they do not answer while the former
// address does. If neither the new nor the former address answers, Redirect uses the new one. Redirect
// blocks for at most some seconds.
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
	answers := make(chan bool, 1)
	go func() { answers <- p.reachable(ctx) }()
	err = p.probe(ctx, to)
	reachable := <-answers
	switch {
	case err == nil:
	case serverRejected(err):
		return err
	case reachable:
		return fmt.Errorf("%w; the address that was in use until now answers, and stays in use", err)
	default:
		s.Log().Warn("the database answers neither at its previous address nor at the new one: requests that need the database get 503, and the gateway retries the new address", "path", to.name, "error", err)
	}
	p.useRoute(to)
	if !reachable {
		// The former address does not answer, so calls would only lose time on connections to it.
		p.retireOthers(to)
	}
	return nil
}

// SetAddress makes the store use an address without a check. It closes idle connections to other
// addresses at once. Connections in use are closed after their use, and SetAddress does not wait for
// that.
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

// useRoute makes new connections use a route. If p.routes already has an equal route, useRoute uses
// that one. It returns the route in use.
func (p *database) useRoute(to *route) *route {
	if i := slices.IndexFunc(p.routes, to.same); i >= 0 {
		to = p.routes[i]
	} else {
		p.routes = append(p.routes, to)
	}
	if p.route.Swap(to) == to {
		return to
	}
	p.s.Log().Info("the address of the database changed; new connections use it", "path", to.name)
	p.mu.Lock()
	p.nextOpen = time.Time{} // The next call tries at once, because the former route may have caused the failure.
	p.uncapPools()
	p.mu.Unlock()
	return to
}

// retireOthers retires all routes except the given one: their connections close after use.
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

// drainRoute closes the connections of a retired route. A connection in use is closed after its use. A
// connection that is being opened is closed as soon as it is open.
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

// reachable reports whether the present address of the database answers within reachableTimeout.
func (p *database) reachable(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, reachableTimeout)
	defer cancel()
	return p.Ping(ctx) == nil
}

// probe returns nil if a route leads to the store in use and its user may write to the store. Otherwise
// it returns the reason.
func (p *database) probe(ctx context.Context, to *route) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	p.mu.Lock()
	id := p.id
	p.mu.Unlock()
	err := withConnection(ctx, to.config, func(c *pgx.Conn) error {
		var is sql.NullString
		var may bool
		err := c.QueryRow(ctx, `SELECT (SELECT value FROM meta WHERE name = 'store_id'), coalesce(has_table_privilege('changes', 'INSERT'), false)`).Scan(&is, &may)
		switch {
		case id == "":
			// The store has never reached its database, so it accepts any database. Opening the database creates a
			// store in it or fails.
			if err != nil && code(err) == codeNoTable {
				err = nil
			}
			return err
		case code(err) == codeNoTable, err == nil && is.String != id:
			return &unusableError{to.name + " is not the store in use: it is another store, which needs a restart, or this user can see no store there"}
		case err == nil && !may:
			return &unusableError{to.name + ": the user may not write to the store's tables: grant it the privileges of the former user, or membership in that role"}
		}
		return err
	})
	if err == nil && to.listener != to.config {
		if err = withConnection(ctx, to.listener, func(c *pgx.Conn) error { return c.Ping(ctx) }); err != nil {
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

// listenError is an error of the address on which the store listens for changes, while the address of
// the store itself works.
type listenError struct{ error }

func (e *listenError) Unwrap() error { return e.error }

// withConnection calls f with a new connection, and closes the connection afterwards.
func withConnection(ctx context.Context, config *pgx.ConnConfig, f func(*pgx.Conn) error) error {
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

// serverRejected reports whether err is an answer of the server that a retry would not change.
func serverRejected(err error) bool {
	var unusable *unusableError
	var listen *listenError
	if errors.As(err, &unusable) || errors.As(err, &listen) {
		return true
	}
	c := code(err)
	return c == codeNoDatabase || c == codeNoPrivilege || c == codeNoTable || unauthorized(err)
}
