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

// route is one way to a database: as whom, where, and where it is listened on. Connections
// know by which they were made.
type route struct {
	// name is what the database is called by messages: all of the address but the password.
	name             string
	config, listener *pgx.ConnConfig
	once             sync.Once
	// retired is closed when its connections are to be given up, as soon as nobody uses them.
	retired chan struct{}
	// open counts the connections made by it.
	open atomic.Int64
}

// capFor is for how long no further connections are asked for after the server refused one.
const capFor = 5 * time.Second

// routeOf is where a connection holds its route.
const routeOf = "keygate.route"

// newRoute reads an address, and that which is listened on; listen may be empty: it is the same.
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

// retire has the route's connections given up.
func (r *route) retire() { r.once.Do(func() { close(r.retired) }) }

// same says that two routes are the same in all that connecting depends on, what was read from files and the
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

// errAddress is all that is said of an address that cannot be read: a password may stand
// anywhere in it.
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
			hosts = append(hosts, host) // the same one stands twice where TLS is optional
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

// openPool returns n connections at most, made by the route of the moment. Those of a route that was left are
// closed instead of being used again; whoever uses one is not interrupted.
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

// pools returns the pools, and how many connections each may have.
func (p *database) pools() map[*sql.DB]int {
	return map[*sql.DB]int{p.conns.Read: readers, p.write: writers}
}

// closeIdle closes the connections that nobody uses.
func (p *database) closeIdle() {
	for db, n := range p.pools() {
		db.SetMaxIdleConns(0)
		db.SetMaxIdleConns(n)
	}
}

// capPool says whether a pool has connections to wait for, where err says that the server gives no further
// ones: it has no more, or the password was changed and is not known here yet. Then the pools
// make do with what they have for a while, or until there is another address.
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

// uncapPools undoes narrow. p.mu is held.
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
