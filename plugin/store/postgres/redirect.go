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

// unusableError is the error of an address whose database can't replace the one in use.
type unusableError struct{ text string }

func (e *unusableError) Error() string { return e.text }

// Redirect has the store reach its PostgreSQL at another address, and listen for changes at listen, from now on:
// with another password, as another user, by other hosts. Running calls are not interrupted, and connections
// to the former address stay in use until SetAddress.
//
// Redirect tries the new addresses first. Where the server rejects them, where they lead to another
// store, or do not answer while the former one does, it returns an error and changes nothing. Where
// neither answers, it uses the new one. It blocks for some seconds at most.
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
		s.Log().Warn("neither the former address of the database nor the new one answers: retrying the new one", "path", to.name, "error", err)
	}
	p.useRoute(to)
	if !there {
		// Connections by the former ones would only delay.
		p.retireOthers(to)
	}
	return nil
}

// SetAddress has the store reach its PostgreSQL at an address, unchecked, and closes connections to
// others: idle ones at once, others after use. It does not wait for that.
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

// useRoute makes new connections by a route, or by an equal one that there is. It returns the route used.
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
	p.nextOpen = time.Time{} // the failure may have been due to the former one
	p.uncapPools()
	p.mu.Unlock()
	return to
}

// retireOthers retires all routes but one.
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

// drainRoute closes the connections of a retired route: those in use after use, and those
// being made when they are there.
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

// reachable reports whether the present address answers.
func (p *database) reachable(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, reachableTimeout)
	defer cancel()
	return p.Ping(ctx) == nil
}

// probe returns nil where a route leads to the store and may be used, and the reason otherwise.
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
			// There was no store yet: the database becomes one, or is rejected, when it is opened.
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

// listenError is an error of the address to listen on: the store itself answers.
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

// serverRejected reports whether err is a server's answer, which does not change with time.
func serverRejected(err error) bool {
	var unusable *unusableError
	var listen *listenError
	if errors.As(err, &unusable) || errors.As(err, &listen) {
		return true
	}
	c := code(err)
	return c == codeNoDatabase || c == codeNoPrivilege || c == codeNoTable || unauthorized(err)
}
