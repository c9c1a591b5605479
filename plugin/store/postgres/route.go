package postgres

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

// route is one way to reach a database: the user, the hosts, and the address on which to listen for
// changes. Each connection keeps a pointer to the route that opened it.
type route struct {
	// name is the database's name in messages: the address without the password.
	name             string
	config, listener *pgx.ConnConfig
	retireOnce       sync.Once
	// retired is a channel that is closed when the route's connections must be closed after use.
	retired chan struct{}
	// open counts the open connections of the route.
	open atomic.Int64
}

// capFor is how long a pool keeps its current size after the server rejected another connection.
const capFor = 5 * time.Second

// routeOf is the key under which a connection's custom data holds the connection's route.
const routeOf = "keygate.route"

// newRoute parses an address and the address on which to listen for changes. If listen is empty, the
// store listens on address too.
func newRoute(address, listen string) (*route, error) {
	config, err := parseAddress(address)
	if err != nil {
		return nil, err
	}
	r := &route{name: nameOf(config), config: config, listener: config, retired: make(chan struct{})}
	if listen != "" {
		if r.listener, err = parseAddress(listen); err != nil {
			return nil, fmt.Errorf("the address to listen on: %w", err)
		}
	}
	config.AfterConnect = func(_ context.Context, c *pgconn.PgConn) error {
		c.CustomData()[routeOf] = r
		r.open.Add(1)
		go func() {
			<-c.CleanupDone()
			r.open.Add(-1)
		}()
		return nil
	}
	return r, nil
}

// retire makes the connections of the route close after use.
func (r *route) retire() { r.retireOnce.Do(func() { close(r.retired) }) }

// same reports whether two routes connect in the same way. It also compares values that the driver read
// from files and the environment.
func (r *route) same(o *route) bool {
	return sameConfig(r.config, o.config) && sameConfig(r.listener, o.listener)
}

func sameConfig(a, b *pgx.ConnConfig) bool {
	return a.ConnString() == b.ConnString() && a.Password == b.Password && nameOf(a) == nameOf(b) &&
		sameTLS(a.TLSConfig, b.TLSConfig)
}

func sameTLS(a, b *tls.Config) bool {
	if a == nil || b == nil {
		return a == b
	}
	return samePool(a.RootCAs, b.RootCAs) && slices.EqualFunc(a.Certificates, b.Certificates, func(a, b tls.Certificate) bool {
		return slices.EqualFunc(a.Certificate, b.Certificate, slices.Equal[[]byte])
	})
}

func samePool(a, b *x509.CertPool) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Equal(b)
}

// Identity returns the name of the database to which an address leads, with the schema if the address
// states one. name is the address without the password.
func Identity(address string) (database, name string, err error) {
	config, err := parseAddress(address)
	if err != nil {
		return "", "", err
	}
	return config.Database + searchPath(config), nameOf(config), nil
}

// errAddress is the only error for an address that can't be parsed. The error quotes nothing of the
// address, because a password may be anywhere in the address.
var errAddress = errors.New("the address of PostgreSQL can't be parsed: its form is postgres://user:password@host:5432/database, with special characters of the password percent-encoded")

func parseAddress(address string) (*pgx.ConnConfig, error) {
	if err := CheckAddress(address); err != nil {
		return nil, err
	}
	config, err := pgx.ParseConfig(address)
	if err != nil {
		return nil, errAddress
	}
	if err := checkParameters(&config.Config); err != nil {
		return nil, err
	}
	if !strings.Contains(address, "default_query_exec_mode") {
		// In the mode QueryExecModeCacheDescribe no prepared statements stay on the server's connection, and a
		// query takes one round trip.
		config.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	if config.ValidateConnect == nil {
		// The connection rejects a standby server, because its data lags behind and it does not accept writes.
		config.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "keygate"
	}
	return config, nil
}

func nameOf(c *pgx.ConnConfig) string {
	hosts := []string{net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port)))}
	for _, f := range c.Fallbacks {
		if host := net.JoinHostPort(f.Host, strconv.Itoa(int(f.Port))); host != hosts[len(hosts)-1] {
			hosts = append(hosts, host) // The driver lists a host twice if TLS is optional.
		}
	}
	return "postgres://" + c.User + "@" + strings.Join(hosts, ",") + "/" + c.Database + searchPath(c)
}

func searchPath(c *pgx.ConnConfig) string {
	if path := c.RuntimeParams["search_path"]; path != "" {
		return "?search_path=" + path
	}
	return ""
}

// openPool returns a pool of at most n connections. The pool opens connections by the present route,
// and closes connections of a retired route after use.
func (p *database) openPool(n int) *sql.DB {
	db := stdlib.OpenDB(*p.route.Load().config,
		stdlib.OptionBeforeConnect(func(_ context.Context, c *pgx.ConnConfig) error {
			*c = *p.route.Load().config
			return nil
		}),
		stdlib.OptionResetSession(func(_ context.Context, c *pgx.Conn) error {
			r, ok := c.PgConn().CustomData()[routeOf].(*route)
			if !ok {
				return nil
			}
			select {
			case <-r.retired:
				return driver.ErrBadConn
			default:
				return nil
			}
		}))
	db.SetMaxOpenConns(n)
	db.SetMaxIdleConns(n)
	db.SetConnMaxIdleTime(idleTimeout)
	return db
}

// pools returns the two connection pools, one for reads and one for writes, each with its size.
func (p *database) pools() map[*sql.DB]int {
	return map[*sql.DB]int{p.conns.Read: readers, p.write: writers}
}

// closeIdle closes the idle connections to the database.
func (p *database) closeIdle() {
	for db, n := range p.pools() {
		db.SetMaxIdleConns(0)
		db.SetMaxIdleConns(n)
	}
}

// capPool handles a server that rejects further connections. The server has no free connections, or the
// password changed and this node does not have the new password yet. The pool then keeps its current
// size for capFor, or until the address changes. capPool returns false if err is another error, or if
// the pool has no connection for which a caller could wait.
func (p *database) capPool(pool *sql.DB, err error) bool {
	if code(err) != codeTooManyConns && !unauthorized(err) {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	n := pool.Stats().OpenConnections
	if n == 0 {
		return false
	}
	pool.SetMaxOpenConns(n)
	if p.capTimer == nil {
		p.capTimer = time.AfterFunc(capFor, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.uncapPools()
		})
	}
	return true
}

// uncapPools gives the pools their full size again after capPool. The caller holds p.mu.
func (p *database) uncapPools() {
	if p.capTimer == nil {
		return
	}
	p.capTimer.Stop()
	p.capTimer = nil
	for db, n := range p.pools() {
		db.SetMaxOpenConns(n)
		db.SetMaxIdleConns(n)
	}
}
