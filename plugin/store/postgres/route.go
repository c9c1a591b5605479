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

// route is one way to a database: the user, the hosts, and the address to listen on. Connections
// hold the route they were made by.
type route struct {
	// name is the database's name in messages: all of the address but the password.
	name             string
	config, listener *pgx.ConnConfig
	once             sync.Once
	// retired is closed when its connections are to be closed after use.
	retired chan struct{}
	// open counts its connections.
	open atomic.Int64
}

// capFor is how long the pools stay at their size after the server rejected a connection.
const capFor = 5 * time.Second

// routeOf is where a connection holds its route.
const routeOf = "keygate.route"

// newRoute reads an address, and the one to listen on; an empty listen is the same address.
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

// retire has the route's connections closed after use.
func (r *route) retire() { r.once.Do(func() { close(r.retired) }) }

// same reports whether two routes connect alike, values read from files and the
// environment included.
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

// Identity returns the name of the database that an address leads to, with the schema where it states one,
// and name, which is all of the address but the password.
func Identity(address string) (database, name string, err error) {
	config, err := parseAddress(address)
	if err != nil {
		return "", "", err
	}
	return config.Database + searchPath(config), nameOf(config), nil
}

// errAddress is the only error about an unreadable address: a password may be anywhere
// in it.
var errAddress = errors.New("the address of PostgreSQL can't be read: it is written postgres://user:password@host:5432/database, special characters of the password percent-encoded")

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
		// Nothing stays on the server's connection, and a query takes one round trip.
		config.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	if config.ValidateConnect == nil {
		// A standby is behind, and cannot be written.
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
			hosts = append(hosts, host) // a host is listed twice where TLS is optional
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

// openPool returns a pool of at most n connections, made by the present route. Connections of a retired route are
// closed after use.
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

// pools returns the pools and the size of each.
func (p *database) pools() map[*sql.DB]int {
	return map[*sql.DB]int{p.conns.Read: readers, p.write: writers}
}

// closeIdle closes the idle connections.
func (p *database) closeIdle() {
	for db, n := range p.pools() {
		db.SetMaxIdleConns(0)
		db.SetMaxIdleConns(n)
	}
}

// capPool reports whether a pool has connections to wait for, where err means that the server gives no more:
// it has none left, or the password changed and the new one is not known here yet. Then the pools
// keep their size for a while, or until there is another address.
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

// uncapPools undoes capPool. p.mu is held.
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
