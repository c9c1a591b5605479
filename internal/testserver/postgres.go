package testserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// superuser is the role that owns everything in these servers. Roles need no password, since the
// servers listen on 127.0.0.1 only. The exceptions are the roles that Login creates.
const superuser = "keygate"

// passwordRole is the role whose members need a password. hostAccess is the pg_hba.conf that
// requires it.
const (
	passwordRole = "password_users"
	hostAccess   = "host all +" + passwordRole + " 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n"
)

// Postgres is a PostgreSQL server that one test uses alone.
type Postgres struct{ Server }

// NewPostgres starts a PostgreSQL server that t uses alone and that ends with t. arguments are
// added to the server's command line, such as "-c", "max_connections=20".
func NewPostgres(t testing.TB, arguments ...string) *Postgres {
	t.Helper()
	dir, err := serverDir("postgres")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p, err := newPostgres(dir, arguments)
	if err == nil {
		err = p.start(false)
	}
	if err != nil {
		t.Fatal(err)
	}
	pg := &Postgres{Server{t, p}}
	t.Cleanup(pg.end)
	return pg
}

// URL returns the address of the database "postgres".
func (pg *Postgres) URL() string { return postgresURL(pg.p.port, superuser, "postgres") }

// URLAt returns the address of the database "postgres" with another host and port, such as those
// of a Proxy.
func (pg *Postgres) URLAt(addr string) string {
	return fmt.Sprintf("postgres://%s@%s/postgres?sslmode=disable", superuser, addr)
}

// Exec runs SQL statements as the superuser. An error fails the test.
func (pg *Postgres) Exec(statements string) {
	pg.t.Helper()
	pg.ask(statements, func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, statements, pgx.QueryExecModeSimpleProtocol)
		return err
	})
}

// Query runs a query as the superuser and scans the first row into to. An error fails the test.
func (pg *Postgres) Query(query string, to ...any) {
	pg.t.Helper()
	pg.ask(query, func(ctx context.Context, conn *pgx.Conn) error { return conn.QueryRow(ctx, query).Scan(to...) })
}

// ask calls f with a connection of the superuser. sql is only for the error message.
func (pg *Postgres) ask(sql string, f func(context.Context, *pgx.Conn) error) {
	pg.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, pg.URL())
	if err != nil {
		pg.t.Fatal(err)
	}
	defer conn.Close(ctx)
	if err := f(ctx, conn); err != nil {
		pg.t.Fatalf("%s: %v\n%s", sql, err, pg.p.tail())
	}
}

// Login creates a role that needs a password, and returns the address of the database "postgres"
// for it. The role may create tables there, and is a member of the roles in of.
func (pg *Postgres) Login(name, password string, of ...string) (url string) {
	pg.t.Helper()
	pg.Exec("DO $$ BEGIN CREATE ROLE " + passwordRole + "; EXCEPTION WHEN duplicate_object THEN END $$;" +
		"CREATE ROLE " + name + " LOGIN PASSWORD '" + password + "' IN ROLE " + strings.Join(append(of, passwordRole), ", ") + ";" +
		"GRANT CREATE ON SCHEMA public TO " + name)
	return postgresURL(pg.p.port, name+":"+password, "postgres")
}

func postgresURL(port int, user, database string) string {
	return fmt.Sprintf("postgres://%s@127.0.0.1:%d/%s?sslmode=disable", user, port, database)
}

// serverDir creates a directory that other users may enter. PostgreSQL refuses to run as root, so
// under root another user runs the server.
func serverDir(what string) (string, error) {
	dir, err := os.MkdirTemp("", "keygate-"+what+"-")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	return dir, nil
}

// serverUser returns the user that runs the server where the tests run as root. It returns nil
// where they don't.
func serverUser() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return nil, err
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			return nil, err
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("PostgreSQL refuses to run as root, and neither of the users postgres and nobody exists: create one")
}

// postgresBinary returns the path of one of PostgreSQL's programs. Debian keeps the server's
// programs outside the PATH, in a directory for each version.
func postgresBinary(name string) (string, error) {
	return find(name, "/usr/lib/postgresql/*/bin/"+name, "/usr/local/pgsql/bin/"+name)
}

// newPostgres creates a database cluster in dir and returns its server, which is not started yet.
func newPostgres(dir string, arguments []string) (*process, error) {
	initdb, err := postgresBinary("initdb")
	if err != nil {
		return nil, err
	}
	binary, err := postgresBinary("postgres")
	if err != nil {
		return nil, err
	}
	as, err := serverUser()
	if err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		return nil, err
	}
	if as != nil {
		if err := os.Chown(data, int(as.Uid), int(as.Gid)); err != nil {
			return nil, err
		}
	}
	c := exec.Command(initdb, "-D", data, "-U", superuser, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	c.Dir, c.Env = dir, []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "LC_ALL=C", "TZ=UTC"}
	c.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	if out, err := c.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w\n%s", err, out)
	}
	if err := os.WriteFile(filepath.Join(data, "pg_hba.conf"), []byte(hostAccess), 0o600); err != nil {
		return nil, err
	}
	if as != nil {
		if err := os.Chown(filepath.Join(data, "pg_hba.conf"), int(as.Uid), int(as.Gid)); err != nil {
			return nil, err
		}
	}
	p := &process{what: "the PostgreSQL server", binary: binary, dir: dir, user: as}
	p.arguments = func(port int) []string {
		return append([]string{
			"-D", data, "-p", strconv.Itoa(port),
			"-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
			// Without fsync the server is faster. Tests kill processes, but the machine keeps
			// running, so no write is lost.
			"-c", "fsync=off", "-c", "full_page_writes=off",
			"-c", "max_connections=200", "-c", "shared_buffers=32MB", "-c", "autovacuum=off",
			"-c", "timezone=UTC", "-c", "log_min_messages=warning",
		}, arguments...)
	}
	p.ready = func() error { return pingPostgres(postgresURL(p.port, superuser, "postgres")) }
	return p, nil
}

func pingPostgres(url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return conn.Ping(ctx)
}

// sharedRoles is how many tests of a package can get a schema in the shared PostgreSQL.
const sharedRoles = 500

func roleName(n int) string { return "test_" + strconv.Itoa(n) }

var sharedPostgres struct {
	once  sync.Once
	p     *process
	err   error
	mu    sync.Mutex
	given int
}

// PostgresURL returns the address of an empty schema in the PostgreSQL that the tests of a package
// share. The schema belongs to a role of its own, and takes much less time than a server. Server
// settings, the number of connections and notification channels are shared with the other tests.
// The server ends with the process.
func PostgresURL(t testing.TB) string {
	t.Helper()
	s := &sharedPostgres
	s.once.Do(func() {
		dir, err := serverDir("postgres")
		if err != nil {
			s.err = err
			return
		}
		if s.p, s.err = newPostgres(dir, nil); s.err == nil {
			s.err = s.p.start(true)
		}
		if s.err != nil {
			_ = os.RemoveAll(dir)
		}
	})
	if s.err != nil {
		t.Fatal(s.err)
	}
	s.mu.Lock()
	s.given++
	name := roleName(s.given)
	full := s.given > sharedRoles
	s.mu.Unlock()
	if full {
		t.Fatal("all roles of the shared PostgreSQL are in use: raise sharedRoles")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, postgresURL(s.p.port, superuser, "postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "CREATE ROLE "+name+" LOGIN; CREATE SCHEMA "+name+" AUTHORIZATION "+name, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatalf("creating a schema: %v\n%s", err, s.p.tail())
	}
	return postgresURL(s.p.port, name, "postgres")
}

// PgBouncer is a connection pooler in front of a PostgreSQL. In its transaction mode, a client
// holds a connection to the server only during a transaction.
type PgBouncer struct{ Server }

// NewPgBouncer starts a PgBouncer for all databases of the server at url, which PostgresURL or
// Postgres.URL returned. It ends with the test.
func NewPgBouncer(t testing.TB, url string) *PgBouncer {
	t.Helper()
	binary, err := find("pgbouncer", "/usr/sbin/pgbouncer")
	if err != nil {
		t.Fatal(err)
	}
	as, err := serverUser()
	if err != nil {
		t.Fatal(err)
	}
	to, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := serverDir("pgbouncer")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := &process{what: "PgBouncer", binary: binary, dir: dir, user: as}
	users := filepath.Join(dir, "users")
	var list strings.Builder
	fmt.Fprintf(&list, "%q \"\"\n", superuser)
	for i := range sharedRoles {
		fmt.Fprintf(&list, "%q \"\"\n", roleName(i+1))
	}
	if err := os.WriteFile(users, []byte(list.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	p.arguments = func(port int) []string {
		file := filepath.Join(dir, "pgbouncer-"+strconv.Itoa(port)+".ini")
		text := strings.Join([]string{
			"[databases]",
			fmt.Sprintf("* = host=%s port=%d", to.Host, to.Port),
			"[pgbouncer]",
			"listen_addr = 127.0.0.1", "listen_port = " + strconv.Itoa(port), "unix_socket_dir =",
			"auth_type = trust", "auth_file = " + users, "pool_mode = transaction", "default_pool_size = 4", "max_client_conn = 200",
			// The short timeout frees the connections of roles whose tests have ended.
			"server_idle_timeout = 5", "log_connections = 0", "log_disconnections = 0",
		}, "\n") + "\n"
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return []string{file}
	}
	p.ready = func() error { return pingPostgres(postgresURL(p.port, to.User, to.Database)) }
	if err := p.start(false); err != nil {
		t.Fatal(err)
	}
	b := &PgBouncer{Server{t, p}}
	t.Cleanup(b.end)
	return b
}

// Through returns url with PgBouncer's host and port.
func (b *PgBouncer) Through(url string) string {
	b.t.Helper()
	to, err := pgx.ParseConfig(url)
	if err != nil {
		b.t.Fatal(err)
	}
	return postgresURL(b.p.port, to.User, to.Database)
}

// PostgresAt returns the host and port of url, and a function that returns url with another host
// and port, such as those of a Proxy.
func PostgresAt(t testing.TB, url string) (server string, at func(addr string) string) {
	t.Helper()
	to, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	return net.JoinHostPort(to.Host, strconv.Itoa(int(to.Port))), func(addr string) string {
		return fmt.Sprintf("postgres://%s@%s/%s?sslmode=disable", to.User, addr, to.Database)
	}
}
